"""The two estimators of the bound: log q sampled (A), or the divergence to the prior in closed form (B)."""

from pyro_dvae.jobs.experiments.declaration import Case, Claim, Experiment, Table

EXPERIMENT = Experiment(
    name="estimators",
    title="MNIST: trained by the sampled bound (A) and with the divergence in closed form (B)",
    source="the VAE report, section 4.4, after Kingma and Welling (2014); curves",
    cases=tuple(
        Case(title, f"{size} latents", {"bound": bound, "latent_size": size})
        for title, bound in (("L^A, sampled", "dvae"), ("L^B, closed form", "mean-field"))
        for size in (2, 10, 50)
    ),
    table=Table("\N{MINUS SIGN}bound, nats", sign=-1, corner="size of the latent space"),
    epochs=100,
    options={"dataset": "mnist", "noise": 0.0, "validate_every": 5},
    measures=("training", "units"),
    picture="curves",
    core_hours=0.10,
    claims=tuple(
        Claim(
            f"{size} latents: the closed form beats the sampled divergence",
            ("L^B, closed form", f"{size} latents"),
            ("L^A, sampled", f"{size} latents"),
        )
        for size in (2, 10, 50)
    ),
)
