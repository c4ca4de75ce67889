"""How many latents of each datum, against how many data in a batch."""

from pyro_dvae.jobs.experiments.declaration import FREY, Case, Claim, Experiment, Table

EXPERIMENT = Experiment(
    name="samples-by-batch",
    title="Frey faces: bounds by latents L of each datum and size of the batch",
    source="the VAE report, after section 2.3 of Kingma and Welling (2014); a picture",
    cases=tuple(
        Case(f"L = {count}", str(size), {"particles": count, "batch_size": size})
        for count in range(1, 9)
        for size in range(20, 141, 20)
    ),
    table=Table("bound of a density, nats", corner="batch", digits=0),
    epochs=100,
    options={
        **FREY,
        "noise": 0.0,
        "latent_size": 10,
        "validate_every": 5,
    },
    picture="heat-map",
    note="The epochs are the same everywhere, so a batch of 20 makes seven times the steps of one of 140.",
    core_hours=0.46,
    claims=tuple(
        Claim(
            f"Frey, batch {size}: L = 1 is as good as L = 8, within 10 nats",
            ("L = 1", str(size)),
            ("L = 8", str(size)),
            margin=10.0,
        )
        for size in (20, 100)
    ),
)
