"""The cases that the tests compare between one process and two; each returns plain values.

Started by the tests as two processes, ``python distributed_cases.py FOLDER CASE ...`` saves what each case
returns on its rank.
"""

import signal
import sys
import warnings
from pathlib import Path
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
from filelock import FileLock
from pyro.infer import Trace_ELBO

import pyro_dvae as dv
from pyro_dvae.distributed import Ranks, join
from pyro_dvae.distributed.ranks import ProcessLostError, together
from pyro_dvae.engine.compiler import interpret
from pyro_dvae.errors import DivergenceError, InputError
from pyro_dvae.evaluation.estimates import evaluate_bound_over_ranks

ROWS, DATA, LATENT = 11, 4, 3
BATCH = 5  # shares of three and two; the last batch has one row, so a rank with none


class GivenNoise(dist.Normal):
    """A normal distribution whose draw is made of given noise."""

    def __init__(self, loc, scale, noise):
        self.noise = noise
        super().__init__(loc, scale, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        shape = torch.Size(batch_shape)
        return GivenNoise(self.loc.expand(shape), self.scale.expand(shape), self.noise.expand(shape))

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


def table(rows=ROWS, seed=5):
    """Return data, the noise of their latents and the corruption's mask, side by side, [rows, 11]."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(rows, DATA, dtype=torch.float64, generator=generator)
    noise = torch.randn(rows, LATENT, dtype=torch.float64, generator=generator)
    mask = (torch.rand(rows, DATA, generator=generator) > 0.3).double()
    return torch.cat([data, noise, mask], 1)


def recorded_alone():
    """Run recorded steps operation by operation in the body, which spares the time of compiling them."""

    def build(graph, example, fixed=0, before=None):
        return interpret(graph, before)

    return mock.patch("pyro_dvae.engine.step.build", build)


class Problem:
    """A denoising model and guide with all noise in the data; variants add what is not of single data."""

    def __init__(self, variant="plain", seed=1):
        self.variant = variant
        torch.manual_seed(seed)
        self.encoder = torch.nn.Linear(DATA, 2 * LATENT, dtype=torch.float64)
        self.decoder = torch.nn.Linear(LATENT, DATA, dtype=torch.float64)

    def plate(self, x):
        if self.variant == "subsampled":
            return pyro.plate("data", 50, subsample=torch.arange(len(x)))
        if self.variant == "unsized":
            return pyro.plate("data")
        return pyro.plate("data", len(x))

    def model(self, *parts):
        x = torch.cat(parts, 1)
        pyro.module("decoder", self.decoder)
        shift = torch.zeros((), dtype=torch.float64)
        if self.variant == "global":
            shift = pyro.sample("shift", dist.Normal(shift, 0.1))
            with pyro.plate("parts", 2):
                pyro.sample("part", dist.Normal(x.new_zeros(2), 0.3))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + shift, 0.5).to_event(1), obs=x[:, :DATA])

    def guide(self, *parts):
        x = torch.cat(parts, 1)
        pyro.module("encoder", self.encoder)
        if self.variant == "unused":
            pyro.param("spare", torch.ones(2, dtype=torch.float64))
        if self.variant == "global":
            pyro.sample("shift", dist.Delta(pyro.param("mean", torch.tensor(0.3, dtype=torch.float64))))
            with pyro.plate("parts", 2):
                means = pyro.param("means", torch.tensor([0.2, -0.4], dtype=torch.float64))
                pyro.sample("part", dist.Delta(means))
        with self.plate(x):
            data, noise, mask = x.split([DATA, LATENT, DATA], 1)
            loc, raw = self.encoder(data * mask).chunk(2, -1)
            pyro.sample("z", GivenNoise(loc, raw.exp(), noise).to_event(1))


def trainer_of(problem, bound=None, **options):
    options = {"epochs": 2, "batch_size": BATCH, "learning_rate": 0.01, "progress": False} | options
    return dv.Trainer(
        problem.model,
        problem.guide,
        *options.pop("train", (table(),)),
        loss=bound or dv.TraceDenoising_ELBO(),
        **options,
    )


def values(trainer):
    return {name: leaf.detach().clone() for name, leaf in trainer.parameters.items()}


def training(variant="plain", clip_norm=None, bound=None, validation=None, **options):
    """Return the gradient of every step of two epochs, the parameters at the end, and the history."""
    pyro.clear_param_store()
    # Rank 0's initial weights count: the others begin with other ones.
    problem = Problem(variant, seed=1 + Ranks.present().rank)
    held_out = table(7, 6) if validation is None else validation
    trainer = trainer_of(problem, bound, clip_norm=clip_norm, validation=held_out, **options)
    gradients = []
    for epoch in trainer:
        for x in epoch:
            trainer.step(x)
            gradients.append(
                {n: None if p.grad is None else p.grad.clone() for n, p in trainer.parameters.items()}
            )
    return gradients, values(trainer), trainer.history.train_bound, trainer.history.validation_bound


def several():
    """Rows as three data arguments."""
    parts = [table(*given).split([DATA, LATENT, DATA], 1) for given in ((), (7, 6))]
    x, noise, mask = parts[0]
    return training(train=(x, noise, mask), validation=parts[1])


def clipped():
    return training(clip_norm=0.5)


def global_latent():
    return training("global")


def global_latent_pyro():
    return training("global", bound=Trace_ELBO())


def subsampled():
    return training("subsampled")


def unsized():
    return training("unsized")


def unused():
    return training("unused")


def own_backward():
    return training("global", bound=pyro.infer.TraceGraph_ELBO())


def compiled():
    return training(clip_norm=0.5, compile=True)


def global_sgd():
    return training("global", optimizer=torch.optim.SGD)


def compiled_global():
    """Train by an optimizer that is called after the recorded gradient."""
    with recorded_alone():
        return training("global", optimizer=torch.optim.SGD, compile=True)


class Meddling(dv.Callback):
    """Changes a parameter and freezes another one after the first epoch."""

    def epoch(self, run):
        with torch.no_grad():
            run.parameters["decoder$$$bias"].mul_(0.5)
        run.parameters["encoder$$$bias"].requires_grad_(False)


def called_back(**options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not registered in the param store")
        return training(callbacks=[Meddling()], **options)


def compiled_called_back():
    with recorded_alone():
        return called_back(compile=True)


def noisy_pair(seed=3):
    pyro.clear_param_store()
    torch.manual_seed(seed)
    encoder = dv.networks.GaussianEncoder(DATA, LATENT, (8,)).double()
    decoder = dv.networks.GaussianDecoder(DATA, LATENT, (8,)).double()
    return dv.DVAE(encoder, decoder, dv.GaussianNoise(0.3))


def noisy(folder, epochs, stop_at=None, **options):
    """Train with noise to ``epochs``, or to a stop that the last rank alone is asked for."""
    dvae = noisy_pair()
    trainer = dv.Trainer(
        dvae.model,
        dvae.guide,
        table()[:, :DATA].clone(),
        loss=dv.TraceDenoising_ELBO(),
        batch_size=2,
        epochs=epochs,
        checkpoint=Path(folder) / "noisy.safetensors",
        progress=False,
        **options,
    )
    ranks, draws, steps = Ranks.present(), [], 0
    try:
        for epoch in trainer:
            for x in epoch:
                draws.append(float(torch.rand(())))
                if steps == stop_at and ranks.rank == ranks.count - 1:
                    signal.raise_signal(signal.SIGINT)
                trainer.step(x)
                steps += 1
    except dv.training.Stopped as stop:
        return {"steps": steps, "message": str(stop)}
    return {"draws": draws, "values": values(trainer), "steps": steps}


def resumed(folder, **options):
    """Return an uninterrupted run, one that stopped in its second epoch, and that one resumed."""
    whole = noisy(Path(folder) / "whole", 3, **options)
    stopped = noisy(Path(folder) / "parts", 3, stop_at=8, **options)
    return whole, stopped, noisy(Path(folder) / "parts", 3, resume=True, **options)


def compiled_resumed(folder):
    with recorded_alone():
        return resumed(Path(folder) / "compiled", compile=True)


def diverging():
    """Return what each rank says of a NaN loss that one of them alone has."""
    problem = Problem()
    trainer = trainer_of(problem)
    try:
        for x in next(iter(trainer)):
            if Ranks.present().rank == 1:
                x[0, 0] = float("nan")
            trainer.step(x)
    except DivergenceError as error:
        return str(error)


def unrecordable():
    """Return what a warning says on each rank where the program of one of them alone cannot be compiled."""
    problem = Problem()
    plain = problem.model

    def model(*parts):
        if Ranks.present().rank == 1 and float(parts[0].sum()) > 1e9:
            raise AssertionError
        plain(*parts)

    problem.model = model
    with recorded_alone(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = trainer_of(problem, compile=True)
        for epoch in trainer:
            for x in epoch:
                trainer.step(x)
    return [str(each.message) for each in caught], values(trainer)


def failing():
    """Return what each rank raises when the work of rank 1 fails."""

    def work():
        if Ranks.present().rank == 1:
            raise InputError("x: expected something else")
        return 1

    try:
        together(Ranks.present(), work)
    except (InputError, ProcessLostError) as error:
        return type(error).__name__, str(error)


def owned(folder):
    """Return what each rank raises when the checkpoint of both is another's."""
    ranks, path = Ranks.present(), Path(folder) / "owned.safetensors"
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    if ranks.rank == 1:
        lock.acquire()
    ranks.gather(None)
    try:
        trainer_of(Problem(), checkpoint=path)
    except (InputError, ProcessLostError) as error:
        return type(error).__name__, str(error)
    finally:
        lock.release()


def likelihood(folder):
    """Return records of the likelihood: of many data in chunks, of a single one, and from a kept file."""
    dvae = noisy_pair()
    x = table(101)[:, :DATA].clone()
    found = []
    for rows, options in (
        (x, {"num_samples": 2000, "keep_log_weight": True}),
        (x[:1], {"num_samples": 100}),
        (x, {"num_samples": 50, "checkpoint": Path(folder) / "kept.safetensors"}),
        (x, {"num_samples": 50, "checkpoint": Path(folder) / "kept.safetensors"}),
    ):
        record = dv.log_likelihood(dvae.model, dvae.guide, rows, seed=4, progress=False, **options)
        found.append(
            {**record.per_datum(), "by_samples": record.bound_by_samples[1], "weights": record.log_weight}
        )
    torch.manual_seed(Ranks.present().rank)  # the seed is rank 0's all the same
    drawn = dv.log_likelihood(dvae.model, dvae.guide, x[:4], num_samples=10, progress=False).seed
    return found, drawn, sorted(path.name for path in Path(folder).glob("kept*"))


def unequal():
    """Return what each rank says when their weights differ."""
    dvae = noisy_pair(seed=Ranks.present().rank)
    try:
        dv.log_likelihood(dvae.model, dvae.guide, table()[:, :DATA].clone(), num_samples=10, seed=0)
    except InputError as error:
        return str(error)


def bounds():
    """Return the bound of a guide without noise, which no random stream changes; also of one row."""
    problem = Problem()
    return [
        evaluate_bound_over_ranks(problem.model, problem.guide, rows, loss=dv.TraceDenoising_ELBO()).per_datum
        for rows in (table(), table()[:1])
    ]


def run_case(name, folder):
    case = globals()[name]
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return case(folder) if case in (resumed, compiled_resumed, owned, likelihood) else case()


def main(folder, *names):
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".* is shared by all rows")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    torch.set_num_threads(1)
    group = join("cpu")
    found = {name: run_case(name, folder) for name in names}
    torch.save(found, Path(folder) / f"rank{Ranks.present().rank}.pt")
    group.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
