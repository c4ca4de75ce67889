"""Every public object can be pickled and deep-copied, before and after use, and stays the same."""

import copy
import io
import pickle
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyro_dvae as dv
from pyro_dvae import networks
from pyro_dvae.registration import register
from pyro_dvae.training import Stopped

pytestmark = pytest.mark.usefixtures("interpreted")

D, d = 4, 2
X = torch.bernoulli(torch.full((6, D), 0.5), generator=torch.Generator().manual_seed(1))


def encoder():
    return networks.GaussianEncoder(D, d, (3,))


def decoder():
    return networks.BernoulliDecoder(D, d, (3,))


def guide(cls, corruption=None):
    return cls.of_sizes(D, d, (3,), corruption=corruption)


CORRUPTIONS = {
    "BitFlip": lambda: dv.BitFlip(0.2, learnable=True),
    "BinomialThinning": lambda: dv.BinomialThinning(0.2, learnable=True),
    "MultiplicativeNoise": lambda: dv.MultiplicativeNoise(0.2),
    "SwapNoise": lambda: dv.SwapNoise(0.2, X),
    "GaussianNoise": lambda: dv.GaussianNoise(dv.LinearSchedule(0.1, 0.3, epochs=4)),
    "Masking": lambda: dv.Masking(0.2),
    "SaltAndPepper": lambda: dv.SaltAndPepper(0.2, learnable=True),
    "NoCorruption": lambda: dv.NoCorruption(),
}


class Inner(torch.nn.Module):
    """A guide without a corruption, of plain torch."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(D, d)

    def forward(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", pyro.distributions.Normal(self.net(x), 1.0).to_event(1))


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(d), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*x.shape]).to_event(1), obs=x)


MODULES = {
    "BernoulliPrior": lambda: dv.BernoulliPrior(d, learnable=True),
    "CategoricalPrior": lambda: dv.CategoricalPrior(d, learnable=True),
    "ConcretePrior": lambda: dv.ConcretePrior(d),
    "FlowPrior": lambda: dv.FlowPrior(d, 2, 3),
    "GaussianPair": lambda: dv.GaussianPair(d),
    "GumbelSoftmaxPrior": lambda: dv.GumbelSoftmaxPrior(d),
    "MixturePrior": lambda: dv.MixturePrior(d, 3),
    "SparseBeta": lambda: dv.SparseBeta(d),
    "StandardNormal": lambda: dv.StandardNormal(d),
    "VampPrior": lambda: dv.VampPrior.of_sizes(D, d, 3),
    "NetworkCorruption": lambda: dv.NetworkCorruption(torch.nn.Linear(D, D), "gaussian"),
    "ChainGuide": lambda: guide(dv.ChainGuide, dv.BitFlip(0.2)),
    "ChainModel": lambda: dv.ChainModel.of_sizes(D, d, (3,)),
    "AutoEncoderGuide": lambda: dv.AutoEncoderGuide(local_model, corruption=dv.BitFlip(0.2)),
    "DenoisingGuide": lambda: dv.DenoisingGuide(Inner(), dv.BitFlip(0.2, learnable=True)),
    "LatentVariableModel": lambda: dv.LatentVariableModel(decoder()),
}
OTHERS = {
    "BoundsReport", "Check", "CompiledLoss", "CompiledSVI", "ConstantSchedule", "Corruption",
    "CSVLog", "Callback", "EarlyStopping", "Running", "TensorBoard",
    "Codes", "DVAE", "Dataset", "Diagnosis", "Estimate", "Fitted", "History", "LinearSchedule",
    "Completions", "Conditioned", "FittedTable", "InferenceGaps", "LogLikelihood", "Prediction", "Prior",
    "Refinement", "StepSchedule", "Trainer",
}  # fmt: skip
GUIDES = [
    "BernoulliGuide",
    "CategoricalGuide",
    "ConcreteGuide",
    "FlowGuide",
    "FullCovarianceGuide",
    "GaussianGuide",
    "GumbelSoftmaxGuide",
    "ImplicitGuide",
    "MixtureGuide",
]
PAIRS = {
    name: lambda made=made: dv.DVAE(encoder(), decoder(), made()) for name, made in CORRUPTIONS.items()
} | {
    "DRAW": lambda: dv.DRAW(image_shape=(2, 2), steps=2, hidden_size=3, latent_size=d, attention=False),
    "Autoencoder": lambda: dv.Autoencoder(encoder(), decoder()),
    "FullBayes": lambda: dv.FullBayes(decoder(), guide(dv.GaussianGuide), 6),
    "VampPrior": lambda: dv.DVAE(encoder(), decoder(), prior=dv.VampPrior.of_sizes(D, d, 3)),
}
BOUNDS = {
    "TraceDenoising_ELBO": lambda: dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=2),
    "TraceDenoisingIWAE_ELBO": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=2),
    "mixture": lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=2, num_particles=2, combine="mixture"),
    "TraceMeanFieldDenoising_ELBO": lambda: dv.TraceMeanFieldDenoising_ELBO(num_particles=2),
    "TraceSemiImplicit_ELBO": lambda: dv.TraceSemiImplicit_ELBO(num_mixture=2),
}


def by_pickle(made):
    return pickle.loads(pickle.dumps(made))


def by_torch(made):
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"pickle": by_pickle, "deepcopy": copy.deepcopy, "torch.save": by_torch}


def loss(pair, bound=None):
    """Return a loss from one random state, with a param store of its own."""
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    return (bound or dv.TraceDenoising_ELBO()).loss(pair.model, pair.guide, X)


def use(pair, local):
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), dv.TraceDenoising_ELBO())
    with pyro.settings.context(module_local_params=local):
        for _ in range(2):
            svi.step(X)
    return dict(pyro.get_param_store().items())  # inspected, as users do


USES = {
    "unused": lambda pair: None,
    "used": lambda pair: use(pair, False),
    "used with local parameters": lambda pair: use(pair, True),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("used", USES.values(), ids=USES)
@pytest.mark.parametrize("made", PAIRS.values(), ids=PAIRS)
def test_ready_made_pairs(made, used, copied):
    pair = made()
    used(pair)
    other = copied(pair)
    assert loss(other) == loss(pair)
    assert all(a is not b for a, b in zip(pair.parameters(), other.parameters(), strict=True))
    use(other, False)  # and it trains, apart from the first
    assert loss(other) != loss(pair)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("used", USES.values(), ids=USES)
@pytest.mark.parametrize("name", GUIDES)
def test_guides(name, used, copied):
    made = guide(getattr(dv, name), dv.BitFlip(0.2))
    if used is not USES["unused"]:
        with pyro.settings.context(module_local_params=used is USES["used with local parameters"]):
            made(X)
        dict(pyro.get_param_store().items())
    other = copied(made)
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    wanted = made(X)
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    assert torch.equal(other(X), wanted)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("made", BOUNDS.values(), ids=BOUNDS)
def test_bounds(made, copied):
    bound, pair = made(), PAIRS["BitFlip"]()
    for _ in range(2):
        assert loss(pair, copied(bound)) == loss(pair, bound)
        pyro.set_rng_seed(0)
        bound.loss(lambda x: pair.model(x), lambda x: pair.guide(x), X)  # programs that have no pickle


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("made", MODULES.values(), ids=MODULES)
def test_other_modules(made, used, copied):
    module = made()
    if used:
        register("module", module)
        dict(pyro.get_param_store().items())
    other = copied(module)

    def drawn(module):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        found = module(X)
        if isinstance(found, dict):
            (found,) = found.values()
        return found if isinstance(found, torch.Tensor) else found.sample()

    assert torch.equal(drawn(other), drawn(module))


def test_errors():
    for error in [getattr(dv, name)("x: expected y") for name in dv.__all__ if name.endswith("Error")]:
        assert repr(by_pickle(error)) == repr(error)
    stopped = by_pickle(Stopped(Path("c.safetensors")))
    assert stopped.checkpoint == Path("c.safetensors")
    assert str(stopped) == str(Stopped(Path("c.safetensors")))


def test_every_public_class_is_tested_here():
    classes = {name for name in dv.__all__ if isinstance(getattr(dv, name), type)}
    tested = {*PAIRS, *BOUNDS, *GUIDES, *CORRUPTIONS, *MODULES, *OTHERS}
    assert {name for name in classes if not issubclass(getattr(dv, name), BaseException)} <= tested


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_network_of_a_function_is_used_and_copied(copied):
    net = decoder()
    pair = dv.DVAE(encoder(), net)
    use(pair, False)
    z = torch.zeros(3, d)
    assert torch.equal(copied(net)(z).mean, net(z).mean)
    assert torch.equal(copied(pair.guide.encoder)(X)[0], pair.guide.encoder(X)[0])


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_callbacks(copied, tmp_path):
    made = [dv.EarlyStopping(3), dv.CSVLog(tmp_path / "a.csv"), dv.TensorBoard(tmp_path / "a", images=None)]
    pair = PAIRS["Masking"]()
    options = {"loss": dv.TraceDenoising_ELBO(), "validation": X, "epochs": 1, "progress": False}
    dv.fit(pair.model, pair.guide, X, callbacks=made, **options)
    for each in made:
        assert vars(copied(each)) == vars(each) | ({"_writer": None} if hasattr(each, "_writer") else {})


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_results_and_data(copied):
    pair = PAIRS["Masking"]()
    bound = dv.TraceDenoising_ELBO()
    few = dv.Refinement(num_steps=2, pilot=25, annealing_steps=0)
    gaps = torch.where(torch.arange(X.numel()).reshape(X.shape) == 3, torch.nan, X)
    made = {
        "history": dv.fit(
            pair.model, pair.guide, X, loss=bound, epochs=1, progress=False, compile=False
        ).history,
        "estimate": dv.evaluate_bound(pair.model, pair.guide, X, loss=bound),
        "likelihood": dv.log_likelihood(pair.model, pair.guide, X, num_samples=20, seed=1),
        "report": dv.bounds_report(pair.model, pair.guide, X, num_samples=10, num_particles=2, num_mixture=1),
        "annealed": dv.annealed_log_likelihood(pair.model, None, X, num_steps=2, num_chains=2, seed=1),
        "check": dv.check(pair.model, pair.guide, X),
        "refined": dv.log_likelihood(pair.model, pair.guide, X, num_samples=20, seed=1, refine=few),
        "conditioned": dv.condition(pair.model, pair.guide, gaps, num_samples=25, seed=1, refine=few),
        "predicted": dv.predict(pair.model, pair.guide, gaps, columns=[0], num_samples=25, refine=few),
        "gaps": dv.inference_gaps(pair.model, pair.guide, X, num_samples=25, seed=1, refine=few),
        "diagnosis": dv.diagnose(pair.model, pair.guide, X, num_samples=25, seed=1, refine=few),
        "data": dv.load_dataset("digits"),
    }
    for name, each in made.items():
        assert repr(copied(each)) == repr(each), name
    for schedule in (dv.StepSchedule({0: 0.1, 2: 0.2}), dv.LinearSchedule(0, 1, 2), dv.ConstantSchedule(1)):
        assert vars(copied(schedule)) == vars(schedule)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(PAIRS["Masking"], id="ready-made", marks=pytest.mark.slow),
        pytest.param(lambda: Plain(), id="plain"),
    ],
)
def test_fitted_models_of_many(made, copied):
    pair = made()
    with pyro.get_param_store().scope():
        pyro.module("seen", getattr(pair, "net", pair.guide))  # sets Pyro's attributes on parameters
    (found,) = dv.fit_many(
        [(pair.model, pair.guide)], X, loss=dv.TraceDenoising_ELBO(), epochs=2, validation=X, progress=False
    )
    other = copied(found)
    assert other.history == found.history
    assert other.trained.tensors().keys() == found.trained.tensors().keys()
    for name, value in found.trained.tensors().items():
        assert torch.equal(other.trained.tensors()[name], value), name
        value.zero_()
    assert all(value.any() for value in other.trained.parameters.values())
    other.load_best()
    assert all(torch.equal(other.trained.tensors()[name], value) for name, value in found.best.items())


def test_a_trainer_and_what_it_trained():
    pair = PAIRS["BitFlip"]()
    trainer = dv.Trainer(pair.model, pair.guide, X, loss=dv.TraceDenoising_ELBO(), epochs=1, progress=False)
    for epoch in trainer:
        for x in epoch:
            trainer.step(x)
    assert loss(by_pickle(pair)) == loss(pair)
    with pytest.raises(TypeError, match="a Trainer cannot be pickled or copied; pickle model and guide"):
        pickle.dumps(trainer)


class Plain:
    """Model and guide as methods of an object, with a module of plain torch and a parameter in the store."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = torch.nn.Linear(D, d)

    def model(self, x):
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(d), scale).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*x.shape]).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


def model(x):
    loc = pyro.param("loc", torch.zeros(D))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc + torch.zeros_like(x), 1.0).to_event(1), obs=x)


def guide_of_nothing(x):
    pass


def loss_by_hand(model, guide, x):
    return Trace_ELBO().differentiable_loss(model, guide, x)


def ready_made():
    torch.manual_seed(0)
    pair = PAIRS["SaltAndPepper"]()
    return pair.model, pair.guide


def methods():
    pair = Plain()
    return pair.model, pair.guide


TRAINED = {"ready-made": ready_made, "methods": methods, "functions": lambda: (model, guide_of_nothing)}
OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "betas": (0.8, 0.9)}),
    "clipped together": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.5}),
    "a schedule": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.5}
    ),
}
LOSSES = {"bound": dv.TraceDenoising_ELBO, "function": lambda: loss_by_hand}


def stepped(svi, seed, count=4):
    """Return the losses of steps from one random state."""
    pyro.set_rng_seed(seed)
    losses = []
    for _ in range(count):
        losses.append(svi.step(X))
        if hasattr(svi.optim, "step"):
            svi.optim.step()
    return losses


def of_functions():
    """Return a copy of the store's parameters that no module has."""
    store = pyro.get_param_store()
    names = [name for name, leaf in store._params.items() if not isinstance(leaf, torch.nn.Parameter)]
    return {
        "params": {name: store._params[name].detach().clone().requires_grad_() for name in names},
        "constraints": {name: store._constraints[name] for name in names},
    }


CASES = (
    [pytest.param("functions", "Adam", "bound", used, "pickle", id=f"used {used}") for used in (0, 4)]
    + [
        pytest.param(
            "ready-made",
            "Adam",
            "bound",
            3,
            name,
            id=name,
            marks=[] if name == "pickle" else pytest.mark.slow,
        )
        for name in COPIES
    ]
    + [
        pytest.param(name, "Adam", "function", 3, "deepcopy", id=name, marks=pytest.mark.slow)
        for name in TRAINED
    ]
    + [
        pytest.param("methods", name, "bound", 3, "pickle", id=name, marks=pytest.mark.slow)
        for name in OPTIMIZERS
    ]
)


@pytest.mark.parametrize(("made", "optimizer", "loss", "used", "copied"), CASES)
def test_compiled_steps(made, optimizer, loss, used, copied):
    """In a process with the same param store, a copy continues as its original does."""
    svi = dv.CompiledSVI(*TRAINED[made](), OPTIMIZERS[optimizer](), LOSSES[loss](), say=quiet)
    stepped(svi, 1, used)
    other = COPIES[copied](svi)
    state = of_functions()
    wanted = stepped(svi, 2)
    with pyro.get_param_store().scope():
        pyro.get_param_store().set_state(state)
        assert stepped(other, 2) == pytest.approx(wanted, rel=1e-5)
        assert other.optim.get_state().keys() == pyro.get_param_store().keys()
    assert other.recorded == svi.recorded == 1
    assert other.optim is not svi.optim


def quiet(message):
    pass


def test_a_copy_in_the_same_process():
    """A ready-made pair is independent of its copy."""
    svi = dv.CompiledSVI(*ready_made(), OPTIMIZERS["Adam"](), dv.TraceDenoising_ELBO(), say=quiet)
    stepped(svi, 1)
    other = copy.deepcopy(svi)
    assert stepped(other, 2) == pytest.approx(stepped(svi, 2), rel=1e-5)


def test_a_copy_that_shares_the_store():
    """Functions have parameters only in the store: the copy continues with them and their moments."""
    results = []
    for copied in (lambda svi: svi, copy.deepcopy):
        pyro.clear_param_store()
        bound = dv.TraceDenoising_ELBO()
        svi = dv.CompiledSVI(model, guide_of_nothing, OPTIMIZERS["Adam"](), bound, say=quiet)
        stepped(svi, 1)
        results.append(stepped(copied(svi), 2))
    assert results[1] == pytest.approx(results[0], rel=1e-5)


CALLED = [
    ("functions", 0, "pickle"),
    pytest.param("methods", 1, "deepcopy", marks=pytest.mark.slow),
    pytest.param("ready-made", 3, "torch.save", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("made", "used", "copied"), CALLED)
def test_compiled_losses(made, used, copied):
    loss = dv.compile_loss(*TRAINED[made](), dv.TraceDenoising_ELBO(), say=quiet)

    def called(loss, seed, count=4):
        pyro.set_rng_seed(seed)
        found = []
        for _ in range(count):
            for leaf in loss.parameters():
                leaf.grad = None
            value = loss(X)
            value.backward()
            found.append([value.item(), *(leaf.grad for leaf in loss.parameters() if leaf.grad is not None)])
        return found

    called(loss, 1, used)
    other = COPIES[copied](loss)
    state = of_functions()
    wanted = called(loss, 2)
    with pyro.get_param_store().scope():
        pyro.get_param_store().set_state(state)
        found = called(other, 2)
    assert other.recorded == loss.recorded == 1
    for one, of_copy in zip(wanted, found, strict=True):
        assert of_copy[0] == pytest.approx(one[0], rel=1e-5)
        for a, b in zip(one[1:], of_copy[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert list(other.parameters())
    assert not {id(p) for p in other.parameters()} & {id(p) for p in loss.parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_models_after_compiled_steps(copied):
    pair = PAIRS["SaltAndPepper"]()
    svi = dv.CompiledSVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), dv.TraceDenoising_ELBO())
    for _ in range(3):
        svi.step(X)
    assert loss(copied(pair)) == loss(pair)
