"""A learned level of noise, by the denoising bound and by the semi-implicit one."""

from pyro_dvae.jobs.experiments.declaration import FREY, Case, Experiment, Table

EXPERIMENT = Experiment(
    name="learned-noise",
    title="Frey faces: the scale of Gaussian noise learned by L_dvae and by the semi-implicit bound, J = 10",
    source="asked for by Im et al. (2017) and by the VAE report; no figures published",
    cases=tuple(
        Case(title, f"from {noise:g}", {"bound": bound, "noise": noise})
        for title, bound in (("L_dvae", "dvae"), ("semi-implicit", "semi-implicit"))
        for noise in (0.025, 0.05, 0.1)
    ),
    table=Table("learned scale", figure="noise", corner="start", digits=4),
    epochs=500,
    options={
        **FREY,
        "noise_kind": "gaussian",
        "learn_noise": True,
        "validate_every": 5,
    },
    measures=("noise", "training", "bounds", "likelihood"),
    note=(
        "The level is that of the best epoch by validation; its lower limit is 0.001. L_dvae is linear in "
        "the distribution of the corruption, so it can only drive the noise down; the semi-implicit bound "
        "can have an optimum inside."
    ),
    core_hours=0.10,
)
