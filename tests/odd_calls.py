"""A valid call of every callable that the package exports, and unsuitable values for its arguments."""

import functools
import math
import tempfile
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

import pyro_dvae as dv

X = torch.arange(8.0).reshape(4, 2) / 8


class Heads(nn.Module):
    """A network of [..., D] whose outputs are of the sizes given, with a scale where asked for."""

    def __init__(self, *sizes, scale=False, inputs=2):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(inputs, size) for size in sizes])
        self.scale = scale

    def forward(self, x):
        found = [part(x) for part in self.parts]
        if self.scale:
            found[1] = found[1].exp()
        return found[0] if len(found) == 1 else tuple(found)


class Likelihood(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, z):
        return dist.Normal(self.linear(z), 1.0).to_event(1)


def model(x):
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, scale).to_event(1))


def implicit(x):
    """A guide with noise of its own."""
    scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        noise = dv.auxiliary("noise", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("z", dist.Normal(x + noise, scale).to_event(1))


def encoder():
    return Heads(2, 2, scale=True)


def decoder():
    made = Likelihood()
    made.latent_size = 2
    return made


def dvae():
    return dv.DVAE(encoder(), decoder(), dv.GaussianNoise(0.1))


@functools.cache
def saved_folder():
    """Save a fit into a folder of its own, once."""
    folder = Path(tempfile.mkdtemp()) / "saved"
    dv.fit(model, guide, X, loss=Trace_ELBO(), **QUIET).save(folder)
    return folder


def saved():
    return {"folder": saved_folder(), "model": model, "guide": guide}


def of_pair(**arguments):
    return {"model": model, "guide": guide} | arguments


def in_plate(corruption):
    """Sample the corruption as a guide does."""
    with pyro.plate("data", len(X)):
        return dv.corrupt("x_tilde", corruption, X)


def run(module):
    """Call a model or guide as Pyro does."""
    return module(X)


def train(pair):
    return dv.TraceDenoising_ELBO().differentiable_loss(pair.model, pair.guide, X)


def loss(bound):
    return bound.differentiable_loss(model, implicit, X)


def sampled(prior):
    return prior.code(prior(X)())


GAPS = torch.where(torch.arange(8).reshape(4, 2) == 3, math.nan, X)
QUICK = {"refine": dv.Refinement(num_steps=2, annealing_steps=0), "num_samples": 25, "seed": 0}
QUIET = {"epochs": 1, "progress": False, "batch_size": 2}
FEW = {"max_plate_nesting": 1, "seed": 0}
ANNEALING = FEW | {"num_steps": 2, "num_chains": 2, "leapfrog_steps": 1}
BOUND = {"max_plate_nesting": 1, "vectorize_particles": True, "retain_graph": None}
BOUND |= {"strict_enumeration_warning": True, "ignore_jit_warnings": False}

# The arguments of a valid call, made anew each time, and how its result is used.
CALLS = {
    "AutoEncoderGuide": (lambda: {"model": model}, run),
    "Autoencoder": (lambda: {"encoder": encoder(), "decoder": decoder()}, train),
    "BernoulliGuide": (lambda: {"encoder": Heads(2)}, run),
    "BernoulliPrior": (lambda: {"latent_size": 2}, sampled),
    "BinomialThinning": (lambda: {"rate": 0.1}, in_plate),
    "BitFlip": (lambda: {"rate": 0.1}, in_plate),
    "BoundsReport": (lambda: {"entries": (), "orders": ()}, None),
    "CSVLog": (lambda: {"file": "log.csv"}, None),
    "Callback": (dict, None),
    "CategoricalGuide": (lambda: {"encoder": Heads(2)}, run),
    "CategoricalPrior": (lambda: {"latent_size": 2}, sampled),
    "ChainGuide": (lambda: {"encoder": encoder(), "upper_encoders": [encoder()]}, run),
    "ChainModel": (
        lambda: {"decoder": decoder(), "upper_decoders": [encoder()], "prior": dv.StandardNormal(2)},
        run,
    ),
    "Check": (lambda: {"loss": "", "sites": (), "step": None, "remarks": ()}, None),
    "CheckpointError": (lambda: {"message": "text"}, None),
    "CompiledSVI": (
        lambda: of_pair(optim=Adam({"lr": 0.01}), loss=Trace_ELBO()),
        lambda svi: svi.step(X),
    ),
    "ConcreteGuide": (lambda: {"encoder": Heads(2)}, run),
    "ConcretePrior": (lambda: {"latent_size": 2}, sampled),
    "Completions": (
        lambda: dict.fromkeys(["data", "cell_draws", "cell_means", "log_likelihood"], X[:, 0]),
        None,
    ),
    "Conditioned": (
        lambda: (
            dict.fromkeys(["data", "cell_draws", "cell_means", "log_likelihood", "standard_error"], X[:, 0])
            | {"ess": X[:, 0], "pareto_k": X[:, 0], "num_samples": 1, "refined": None, "seed": 0}
        ),
        None,
    ),
    "ConstantSchedule": (lambda: {"level": 0.1}, lambda schedule: schedule(0)),
    "DRAW": (
        lambda: (
            {"image_shape": (1, 2), "steps": 1, "hidden_size": 2, "latent_size": 1, "read_size": 1}
            | {"write_size": 1}
        ),
        train,
    ),
    "DVAE": (lambda: {"encoder": encoder(), "decoder": decoder()}, train),
    "DataError": (lambda: {"message": "text"}, None),
    "Dataset": (
        lambda: (
            {"name": "a", "train": X, "validation": X, "test": X, "image_shape": (1, 2)}
            | {"train_labels": None, "validation_labels": None, "test_labels": None}
            | {"binary": False, "source": "a"}
        ),
        None,
    ),
    "DenoisingGuide": (lambda: {"guide": guide, "corruption": dv.GaussianNoise(0.1)}, run),
    "Codes": (lambda: {"mean": {"z": X}, "standard_deviation": {"z": X}, "draws": {}}, None),
    "Diagnosis": (lambda: {"findings": ()}, None),
    "EarlyStopping": (lambda: {"patience": 3, "min_rise": 0.1}, None),
    "Estimate": (lambda: {"per_datum": X[:, 0]}, None),
    "Fitted": (
        lambda: of_pair(history=dv.History(), best={}, store={}, trained=None),
        None,
    ),
    "FlowGuide": (
        lambda: {"encoder": Heads(3), "feature_size": 3, "latent_size": 2, "flows": []},
        run,
    ),
    "FlowPrior": (lambda: {"latent_size": 2}, sampled),
    "FittedTable": (
        lambda: (
            {"members": {}, "weights": X[0], "rows": X, "loc": X[0], "scale": X[0], "held_out": {}}
            | {"seed": 0}
        ),
        None,
    ),
    "FullBayes": (
        lambda: {"decoder": decoder(), "guide": dv.GaussianGuide(encoder()), "num_data": 4},
        train,
    ),
    "FullCovarianceGuide": (lambda: {"encoder": Heads(3), "feature_size": 3, "latent_size": 2}, run),
    "GaussianGuide": (lambda: {"encoder": encoder()}, run),
    "GaussianNoise": (lambda: {"scale": 0.1}, in_plate),
    "GaussianPair": (lambda: {"latent_size": 2}, sampled),
    "GumbelSoftmaxGuide": (lambda: {"encoder": Heads(2)}, run),
    "GumbelSoftmaxPrior": (lambda: {"latent_size": 2}, sampled),
    "History": (dict, None),
    "ImplicitGuide": (lambda: {"encoder": Heads(2, 2, scale=True, inputs=3), "noise_size": 1}, None),
    "InferenceGaps": (
        lambda: (
            dict.fromkeys(["log_likelihood", "encoder", "diagonal", "full", "pareto_k", "annealed"], X[:, 0])
            | {"errors": {}, "seed": 0}
        ),
        None,
    ),
    "InputError": (lambda: {"message": "text"}, None),
    "LatentVariableModel": (lambda: {"decoder": decoder()}, run),
    "LinearSchedule": (lambda: {"start": 0.1, "end": 0.0, "epochs": 2}, lambda schedule: schedule(1)),
    "LogLikelihood": (
        lambda: (
            dict.fromkeys(
                ["log_likelihood", "standard_error", "ess", "pareto_k", "smoothed_log_likelihood"], X[:, 0]
            )
            | {"bound_by_samples": ((1,), X[:1]), "num_samples": 1, "proposal": None, "denoising": False}
            | {"seed": 0}
        ),
        None,
    ),
    "Masking": (lambda: {"rate": 0.1}, in_plate),
    "MixtureGuide": (lambda: {"encoder": Heads(3), "feature_size": 3, "latent_size": 2}, run),
    "MixturePrior": (lambda: {"latent_size": 2}, sampled),
    "MultiplicativeNoise": (lambda: {"scale": 0.1}, in_plate),
    "NetworkCorruption": (lambda: {"network": Heads(2), "family": "gaussian"}, in_plate),
    "NoCorruption": (dict, in_plate),
    "Prediction": (
        lambda: (
            dict.fromkeys(["mean", "low", "high"], X[:, :1])
            | {"columns": (0,), "level": 0.9, "reliable": X[:, 0] > 0}
        ),
        None,
    ),
    "Refinement": (lambda: {"num_steps": 3, "pilot": 30}, None),
    "SaltAndPepper": (lambda: {"rate": 0.1}, in_plate),
    "SparseBeta": (lambda: {"latent_size": 2}, sampled),
    "StandardNormal": (lambda: {"latent_size": 2}, sampled),
    "StepSchedule": (lambda: {"levels_from": {0: 0.1}}, lambda schedule: schedule(1)),
    "SwapNoise": (lambda: {"rate": 0.1, "rows": X}, in_plate),
    "TensorBoard": (lambda: {"folder": "tb", "images": X, "image_shape": (1, 2), "every": 2}, None),
    "TraceDenoisingIWAE_ELBO": (lambda: dict(BOUND), loss),
    "TraceDenoising_ELBO": (lambda: dict(BOUND), loss),
    "TraceMeanFieldDenoising_ELBO": (lambda: dict(BOUND), loss),
    "TraceSemiImplicit_ELBO": (lambda: dict(BOUND), loss),
    "Trainer": (lambda: of_pair(loss=Trace_ELBO(), data=X) | QUIET, None),
    "VampPrior": (lambda: {"posterior": dv.GaussianGuide(encoder()), "pseudo_inputs": X[:2]}, sampled),
    "annealed_log_likelihood": (lambda: of_pair(data=X) | ANNEALING, None),
    "anomaly_score": (
        lambda: of_pair(data=GAPS, method="likelihood", by="row") | QUICK,
        None,
    ),
    "auxiliary": (lambda: {"name": "noise", "fn": dist.Normal(0.0, 1.0)}, None),
    "bidirectional": (lambda: of_pair(data=X, num_data=2) | ANNEALING, None),
    "binary_code": (lambda: of_pair(data=X), None),
    "bounds_report": (
        lambda: (
            of_pair(data=X, num_mixture=(1, 2), num_particles=(1, 2), num_corruptions=2, num_samples=20) | FEW
        ),
        None,
    ),
    "check": (lambda: of_pair(num_data=4, loss=Trace_ELBO(), data=X), None),
    "clean_input": (lambda: {"fn": guide}, None),
    "compile_loss": (lambda: of_pair(loss=Trace_ELBO()), lambda made: made(X)),
    "condition": (
        lambda: (
            of_pair(data=GAPS, num_draws=2, defensive=0.1, fill=0.0, memory=2**20, max_plate_nesting=1)
            | QUICK
        ),
        None,
    ),
    "corrupt": (lambda: {"name": "x_tilde", "corruption": dv.Masking(0.1), "x": X}, None),
    "decode": (lambda: {"model": model, "codes": torch.zeros(4, 2), "data": X, "seed": 0}, None),
    "denoise": (lambda: of_pair(data=X, num_samples=2, seed=0), None),
    "encode": (lambda: of_pair(data=X, seed=0), None),
    "evaluate_bound": (lambda: of_pair(data=X, loss=dv.TraceDenoising_ELBO(), seed=0), None),
    "fill_gaps": (lambda: {"data": GAPS, "fill": 0.0}, None),
    "fit": (lambda: of_pair(loss=Trace_ELBO(), data=X) | QUIET, None),
    "fit_table": (lambda: {"data": GAPS, "seed": 0, "progress": False}, None),
    "fit_many": (
        lambda: {"pairs": [(model, guide)], "loss": dv.TraceDenoising_ELBO(), "data": X} | QUIET,
        None,
    ),
    "interpolate": (lambda: of_pair(start=X, end=X, steps=2), None),
    "load": (saved, None),
    "impute": (lambda: of_pair(data=GAPS, how="mean", num_imputations=1, num_draws=2) | QUICK, None),
    "diagnose": (lambda: of_pair(data=X, training=X, num_rows=2, hidden=0.5) | QUICK | FEW, None),
    "inference_gaps": (lambda: of_pair(data=X) | QUICK | FEW, None),
    "load_dataset": (lambda: {"name": "digits", "download": False}, None),
    "refit_guide": (lambda: of_pair(loss=dv.TraceDenoising_ELBO(), data=X, share=0.5) | QUIET, None),
    "reconstruct": (lambda: of_pair(data=X, num_samples=2, seed=0), None),
    "sample": (lambda: {"model": model, "data": X, "num_samples": 2, "seed": 0}, None),
    "log_likelihood": (
        lambda: of_pair(data=X, num_samples=20, progress=False, compile=False) | FEW,
        None,
    ),
    "predict": (lambda: of_pair(data=X, columns=[1], level=0.3, num_draws=2) | QUICK, None),
    "sample_given": (lambda: of_pair(data=GAPS, num_draws=2) | QUICK, None),
    "to_arviz": (lambda: of_pair(data=X, num_draws=2, num_samples=2, seed=0, progress=False), None),
    "with_gaps": (lambda: of_pair(pass_mask=False), None),
}
# Names that are not called: returned objects, exceptions and base classes.
UNCALLED = {
    "CompiledLoss",
    "CompiledStepError",
    "Corruption",
    "DivergenceError",
    "Prior",
    "Running",
    "Stopped",
}

ODD = {
    "None": lambda: None,
    "text": lambda: "odd",
    "empty text": lambda: "",
    "escapes": lambda: "\x1b[31m\nodd",
    "bytes": lambda: b"odd",
    "a path": lambda: Path("odd"),
    "a huge integer": lambda: 10**400,
    "a huge negative integer": lambda: -(10**400),
    "a negative integer": lambda: -1,
    "zero": lambda: 0,
    "one": lambda: 1,
    "three": lambda: 3,
    "a half": lambda: 0.5,
    "a negative number": lambda: -0.5,
    "nan": lambda: math.nan,
    "infinity": lambda: math.inf,
    "minus infinity": lambda: -math.inf,
    "true": lambda: True,
    "false": lambda: False,
    "complex": lambda: 1j,
    "an object": object,
    "a type": lambda: int,
    "a class of modules": lambda: nn.Linear,
    "a function of nothing": lambda: lambda: None,
    "a function of anything": lambda: lambda *args, **kwargs: None,
    "a function that fails": lambda: lambda *args, **kwargs: 1 / 0,
    "a list": list,
    "a list of None": lambda: [None],
    "a list of numbers": lambda: [0.25, 0.5],
    "a list of text": lambda: ["odd", "odder"],
    "a tuple": tuple,
    "a pair of numbers": lambda: (1, 2),
    "a set": lambda: {1},
    "a range": lambda: range(3),
    "a generator": lambda: (each for each in (1, 2)),
    "a dictionary": lambda: {"a": 1},
    "an empty dictionary": dict,
    "an empty tensor": lambda: torch.empty(0),
    "no rows": lambda: torch.empty(0, 2),
    "no columns": lambda: torch.empty(4, 0),
    "a number in a tensor": lambda: torch.tensor(0.5),
    "NaN in a tensor": lambda: torch.tensor(math.nan),
    "a tensor of NaN": lambda: torch.full((4, 2), math.nan),
    "a tensor of infinity": lambda: torch.full((4, 2), math.inf),
    "whole numbers": lambda: torch.ones(4, 2, dtype=torch.int64),
    "bytes in a tensor": lambda: torch.ones(4, 2, dtype=torch.uint8),
    "bits": lambda: torch.ones(4, 2, dtype=torch.bool),
    "complex numbers": lambda: torch.ones(4, 2, dtype=torch.complex64),
    "a sparse tensor": lambda: torch.ones(4, 2).to_sparse(),
    "double numbers": lambda: X.double(),
    "half numbers": lambda: X.half(),
    "fewer rows": lambda: X[:3],
    "more columns": lambda: torch.ones(4, 3),
    "one dimension": lambda: torch.ones(4) / 2,
    "three dimensions": lambda: torch.ones(4, 2, 1) / 2,
    "a live tensor": lambda: (X / 2).requires_grad_(),
    "a meta tensor": lambda: torch.ones(4, 2, device="meta"),
    "an array": lambda: X.numpy(),
    "an array of objects": lambda: np.array([None, "odd"]),
    "a number of numpy": lambda: np.float32(0.5),
    "a network": lambda: nn.Linear(2, 2),
    "a network of other sizes": lambda: nn.Linear(3, 5),
    "a network of pairs": encoder,
    "a distribution": lambda: dist.Normal(0.0, 1.0),
    "a corruption": lambda: dv.Masking(0.1),
    "a prior": lambda: dv.StandardNormal(3),
    "a guide": lambda: dv.GaussianGuide(encoder()),
    "a schedule": lambda: dv.LinearSchedule(0.5, 0.1, 2),
    "an ELBO": Trace_ELBO,
    "an optimizer": lambda: Adam({"lr": 0.01}),
    "a step": lambda: SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()),
}
