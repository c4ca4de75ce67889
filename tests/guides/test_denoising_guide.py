from contextlib import ExitStack, contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import BinaryProblem, LinearGaussian, check_estimates, gradients
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn

import pyro_dvae as dv
from pyro_dvae.guides.base import event_dimensions
from pyro_dvae.networks import GaussianEncoder
from pyro_dvae.registration import register

BOUNDS = [
    pytest.param(Trace_ELBO, id="stock"),
    pytest.param(lambda: dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=1), id="1-1"),
    pytest.param(lambda: dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=4), id="3-4"),
]


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def bits(*shape, seed=5):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).double()


class Guides(nn.Module):
    """One recognition network as a guide with and without the corruption line, for data in some plates.

    x has shape [*plates, *event]; one latent per datum reads it through a linear map.
    """

    def __init__(self, corruption, plates=("data",), event=(3,), full_size=None):
        super().__init__()
        self.corruption = corruption
        self.event_dim = len(event)
        self.plates = {name: index - len(plates) for index, name in enumerate(plates)}
        generator = torch.Generator().manual_seed(1)
        size = torch.Size(event).numel()
        self.weight = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64))
        self.decode = nn.Parameter(torch.randn(event, generator=generator, dtype=torch.float64))
        self.full_size = full_size

    @contextmanager
    def inside(self, x):
        """Enter the plates, their sizes counted from the right."""
        with ExitStack() as stack:
            for name, dim in self.plates.items():
                size = x.shape[dim - self.event_dim]
                indices = None if self.full_size is None else torch.arange(size)
                stack.enter_context(pyro.plate(name, self.full_size or size, subsample=indices, dim=dim))
            yield

    def recognise(self, x_tilde):
        flat = x_tilde.flatten(-self.event_dim) if self.event_dim else x_tilde.unsqueeze(-1)
        pyro.sample("z", dist.Normal(torch.tanh(flat @ self.weight), 0.7))

    def model(self, x):
        register("problem", self)
        with self.inside(x):
            z = pyro.sample("z", dist.Normal(double(0.0), 1.0))
            logits = z.reshape(z.shape + (1,) * self.event_dim) * self.decode
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(self.event_dim), obs=x)

    def by_hand(self, x):
        register("problem", self)
        with self.inside(x):
            self.recognise(dv.corrupt("x_tilde", self.corruption, x, self.event_dim))

    def plain(self, x):
        register("problem", self)
        with self.inside(x):
            self.recognise(x)


def run(bound, problem, guide, x):
    pyro.set_rng_seed(3)
    loss = bound.loss_and_grads(problem.model, guide, x)
    return loss, gradients(problem), torch.get_rng_state()


def check_equal(make_bound, problem, wrapped, x, calls=2):
    expected, expected_grads, expected_state = run(make_bound(), problem, problem.by_hand, x)
    for _ in range(calls):
        loss, grads, state = run(make_bound(), problem, wrapped, x)
        assert loss == expected
        for name, gradient in expected_grads.items():
            assert torch.equal(grads[name], gradient), name
            assert bool((gradient != 0).any()), name
        assert torch.equal(state, expected_state)


LEARNED = [
    pytest.param(lambda: dv.BitFlip(double(0.3), learnable=True), id="flip"),
    pytest.param(lambda: dv.SaltAndPepper(double(0.3), learnable=True), id="salt"),
    pytest.param(lambda: dv.GaussianNoise(double(0.3), learnable=True), id="gaussian"),
]


@pytest.mark.parametrize("make_bound", BOUNDS)
@pytest.mark.parametrize("make_corruption", LEARNED)
def test_a_wrapped_guide_equals_the_hand_written_one(make_bound, make_corruption):
    problem = Guides(make_corruption())
    check_equal(make_bound, problem, dv.DenoisingGuide(problem.plain, problem.corruption), bits(5, 3))


def test_a_wrapped_guide_under_an_importance_weighted_bound():
    problem = Guides(dv.GaussianNoise(double(0.3), learnable=True))
    wrapped = dv.DenoisingGuide(problem.plain, problem.corruption)
    check_equal(
        lambda: dv.TraceDenoisingIWAE_ELBO(num_corruptions=3, num_particles=4), problem, wrapped, bits(5, 3)
    )


@pytest.mark.parametrize("make_bound", BOUNDS)
@pytest.mark.parametrize(
    ("plates", "event", "shape"),
    [
        (("groups", "data"), (3,), (2, 4, 3)),
        (("data",), (2, 3), (4, 2, 3)),
        (("groups", "data"), (2, 3), (5, 4, 2, 3)),
        (("data",), (), (6,)),
    ],
)
def test_plates_and_event_dims(make_bound, plates, event, shape):
    problem = Guides(dv.BitFlip(double(0.3), learnable=True), plates, event)
    wrapped = dv.DenoisingGuide(problem.plain, problem.corruption, event_dim=len(event))
    check_equal(make_bound, problem, wrapped, bits(*shape))
    assert wrapped.plates == problem.plates


@pytest.mark.parametrize("make_bound", BOUNDS)
def test_a_subsampling_plate(make_bound):
    problem = Guides(dv.BitFlip(double(0.3), learnable=True), full_size=40)
    check_equal(make_bound, problem, dv.DenoisingGuide(problem.plain, problem.corruption), bits(4, 3))


@pytest.mark.slow
def test_a_plate_that_draws_its_own_subsample():
    problem = LinearGaussian()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def guide(x):
        register("problem", problem)
        with pyro.plate("data", 40, subsample_size=x.shape[-2]):
            problem.recognition(x)

    wrapped = dv.DenoisingGuide(guide, problem.corruption)
    bound = dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=2, max_plate_nesting=1)
    losses = [bound.loss(lambda x: problem.model(x, 40), wrapped, x) for _ in range(300)]
    check_estimates(
        "bound", -torch.tensor(losses, dtype=torch.float64), 10 * problem.l_dvae(x).sum().detach()
    )


@pytest.mark.parametrize("make_bound", BOUNDS)
def test_plates_named_by_hand(make_bound):
    problem = Guides(dv.BitFlip(double(0.3), learnable=True), ("groups", "data"))
    calls = []
    guide = lambda x: (calls.append(1), problem.plain(x))  # noqa: E731
    wrapped = dv.DenoisingGuide(guide, problem.corruption, plates={"data": -1, "groups": -2})
    wrapped(bits(2, 4, 3))
    assert len(calls) == 1
    check_equal(make_bound, problem, wrapped, bits(2, 4, 3))


def test_the_plates_are_found_once():
    problem = Guides(dv.BitFlip(0.3))
    calls = []
    wrapped = dv.DenoisingGuide(lambda x: (calls.append(x), problem.plain(x)), problem.corruption)
    x = bits(4, 3)
    counts = []
    for batch in (x, x, x[:2]):
        wrapped(batch)
        counts.append(len(calls))
    assert counts == [2, 3, 4]
    assert torch.equal(calls[0], x)
    assert wrapped.plates == {"data": -1}


def test_finding_leaves_no_trace():
    """Neither the random stream nor a surrounding handler sees the run that finds the plates."""
    problem, x = Guides(dv.BitFlip(0.3)), bits(4, 3)
    results = []
    for plates in (None, {"data": -1}):
        wrapped = dv.DenoisingGuide(problem.plain, problem.corruption, plates=plates)
        pyro.set_rng_seed(3)
        trace = poutine.trace(wrapped).get_trace(x)
        results.append((list(trace.nodes), trace.nodes["z"]["value"], torch.rand(3)))
    (names, z, after), (expected_names, expected_z, expected_after) = results
    assert names == expected_names
    assert torch.equal(z, expected_z)
    assert torch.equal(after, expected_after)


def test_the_corruption_lies_in_the_plates_that_all_latents_share():
    def guide(x):
        with pyro.plate("data", x.shape[-2]):
            pyro.sample("z", dist.Normal(x.sum(-1), 1.0))
            with pyro.plate("features", 5, dim=-2):
                pyro.sample("w", dist.Normal(x.sum(-1), 1.0))

    trace = poutine.trace(dv.DenoisingGuide(guide, dv.GaussianNoise(0.1))).get_trace(torch.rand(4, 3))
    assert [frame.name for frame in trace.nodes["x_tilde"]["cond_indep_stack"]] == ["data"]
    assert trace.nodes["w"]["value"].shape == (5, 4)


@pytest.mark.parametrize("size", [1, 2])
def test_a_sequential_plate_is_no_plate_of_the_data(size):
    def guide(x):
        for index in pyro.plate("loop", size):
            pyro.sample(f"z_{index}", dist.Normal(x.sum(), 1.0))

    wrapped = dv.DenoisingGuide(guide, dv.GaussianNoise(0.1))
    wrapped(torch.rand(3))
    assert wrapped.plates == {}


def test_arguments_and_the_result_pass_through():
    def guide(x, shift, *rest, factor=1.0):
        with pyro.plate("data", x.shape[-2]):
            z = pyro.sample("z", dist.Delta(x.sum(-1) * factor + shift))
        return z, rest

    x = torch.rand(4, 3)
    z, rest = dv.DenoisingGuide(guide, dv.NoCorruption())(x, 2.0, "a", "b", factor=3.0)
    torch.testing.assert_close(z, 3 * x.sum(-1) + 2)
    assert rest == ("a", "b")


def test_the_site_has_the_given_name():
    problem = Guides(dv.GaussianNoise(0.3))
    trace = poutine.trace(dv.DenoisingGuide(problem.plain, problem.corruption, name="noisy")).get_trace(
        bits(4, 3)
    )
    site = trace.nodes["noisy"]
    assert site["infer"]["is_auxiliary"] is True
    assert "x_tilde" not in trace
    assert list(trace.nodes).index("noisy") < list(trace.nodes).index("z")


def test_corruptions_stack():
    problem = Guides(dv.NoCorruption())
    inner = dv.DenoisingGuide(problem.plain, dv.GaussianNoise(double(0.3)), name="second")
    outer = dv.DenoisingGuide(inner, dv.GaussianNoise(double(0.4)), name="first")
    x = torch.rand(4, 3, dtype=torch.float64)
    trace = poutine.trace(outer).get_trace(x)
    assert [name for name in trace.stochastic_nodes if name != "data"] == ["first", "second", "z"]
    draws = []
    for _ in range(500):
        draws.append(poutine.trace(outer).get_trace(x).nodes["second"]["value"] - x)
    check_estimates("variance", torch.stack(draws).square(), double(0.25))
    assert dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=2).per_datum(
        problem.model, outer, bits(4, 3)
    ).shape == (4,)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("make_bound", BOUNDS)
def test_a_pyro_module_as_guide_trains_with_its_corruption(local, make_bound):
    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](3, 1)
            self.scale = PyroParam(torch.tensor(0.7), dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", x.shape[-2]):
                pyro.sample("z", dist.Normal(self.linear(x).squeeze(-1), self.scale))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1) * torch.ones(3)).to_event(1), obs=x)

    with pyro.settings.context(module_local_params=local):
        wrapped = dv.DenoisingGuide(Guide(), dv.BitFlip(0.3, learnable=True))
        before = {name: value.detach().clone() for name, value in wrapped.named_parameters()}
        assert len(before) == 4
        x = bits(5, 3).float()
        if local:  # Pyro's own SVI cannot step a PyroModule with local parameters, wrapped or not
            elbo = make_bound()(model, wrapped)
            optimizer = torch.optim.Adam(elbo.parameters(), lr=0.05)
            elbo(x).backward()
            optimizer.step()
        else:
            SVI(model, wrapped, pyro.optim.Adam({"lr": 0.05}), make_bound()).step(x)
        for name, value in wrapped.named_parameters():
            assert not torch.equal(value, before[name]), name


def test_parameters_of_a_wrapped_module_belong_to_the_wrapper():
    encoder = GaussianEncoder(3, 2, (4,))
    wrapped = dv.DenoisingGuide(dv.GaussianGuide(encoder, dv.NoCorruption()), dv.BitFlip(0.3, learnable=True))
    names = {name.partition(".")[0] for name, _ in wrapped.named_parameters()}
    assert names == {"guide", "corruption"}


@pytest.mark.parametrize("make_bound", BOUNDS[:2])
def test_clean_input_gives_the_bare_guide(make_bound):
    problem = Guides(dv.BitFlip(double(0.3), learnable=True))
    x = bits(4, 3)
    wrapped = dv.DenoisingGuide(problem.plain, problem.corruption)
    expected, expected_grads, _ = run(make_bound(), problem, problem.plain, x)
    with dv.clean_input():
        loss, grads, _ = run(make_bound(), problem, wrapped, x)
    assert loss == expected
    for name in ("weight", "decode"):
        assert torch.equal(grads[name], expected_grads[name])
    assert not torch.equal(run(make_bound(), problem, wrapped, x)[1]["weight"], expected_grads["weight"])


# Refusals


def plated(size, event_dim=1):
    def guide(x):
        with pyro.plate("data", size(x)):
            pyro.sample("z", dist.Normal(x.flatten(-event_dim).sum(-1), 1.0).expand([size(x)]))

    return guide


def test_a_plate_of_another_size_than_the_data_is_refused_with_a_remedy():
    def guide(x):
        with pyro.plate("data", 10):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    message = (
        r"^guide: its plate 'data' has 10 elements, but x of shape \(4, 3\) has 4; give it the mini-batch, "
    )
    with pytest.raises(
        dv.InputError, match=message + r"set event_dim, or call pyro_dvae.corrupt inside the guide$"
    ):
        dv.DenoisingGuide(guide, dv.BitFlip(0.1))(torch.rand(4, 3))


def test_images_without_event_dim_are_refused():
    with pytest.raises(
        dv.InputError, match=r"^guide: its plate 'data' has 4 elements.* has 5; .* set event_dim"
    ):
        dv.DenoisingGuide(plated(len, 2), dv.BitFlip(0.1))(torch.rand(4, 5, 3))


def test_a_later_batch_that_does_not_match_is_refused():
    wrapped = dv.DenoisingGuide(plated(lambda x: 4), dv.BitFlip(0.1))
    wrapped(torch.rand(4, 3))
    with pytest.raises(dv.InputError, match=r"^guide: its plate 'data' has 4 elements, but the data have 6 "):
        wrapped(torch.rand(6, 3))


@pytest.mark.parametrize(("rows", "corruptions"), [(4, 3), (1, 3), (3, 3), (2, 7)])
def test_a_guide_that_counts_its_data_from_the_left_keeps_its_plate(rows, corruptions):
    """``pyro.plate("data", x.shape[0])``, the usual idiom, sees M where x̃ has draws on the left."""
    noise = dv.BitFlip(torch.tensor(0.2, dtype=torch.float64), learnable=True)
    weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    parameters = [weight, noise.rate.raw]

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(weight * x.sum(-1), 1.0))

    def by_hand(x):
        with pyro.plate("data", x.shape[0]):
            x_tilde = dv.corrupt("x_tilde", noise, x)
            pyro.sample("z", dist.Normal(weight * x_tilde.sum(-1), 1.0))

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    x = torch.rand(rows, 3, dtype=torch.float64)
    found = []
    for candidate in (by_hand, dv.DenoisingGuide(guide, noise)):
        pyro.set_rng_seed(7)
        loss = dv.TraceDenoising_ELBO(num_corruptions=corruptions, num_particles=2).differentiable_loss(
            model, candidate, x
        )
        found.append((loss, *torch.autograd.grad(loss, parameters)))
    for wanted, got in zip(*found, strict=True):
        assert torch.equal(wanted, got)


def test_another_size_under_several_corruptions_is_refused():
    wrapped = dv.DenoisingGuide(plated(lambda x: 4), dv.BitFlip(0.1))
    wrapped(torch.rand(4, 3))

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    message = r"^guide: its plate 'data' has 4 elements, but the data have 6 \(.*\(6, 3\)\)"
    with pytest.raises(dv.InputError, match=message):
        dv.TraceDenoising_ELBO(num_corruptions=3, num_particles=1).loss(model, wrapped, torch.rand(6, 3))


@pytest.mark.parametrize("bad", ["guide", None, 3])
def test_what_is_no_guide_is_refused(bad):
    with pytest.raises(dv.InputError, match=f"^guide: expected a callable, got {bad!r}$"):
        dv.DenoisingGuide(bad, dv.BitFlip(0.1))


def test_bad_arguments_are_refused():
    guide = plated(len)
    with pytest.raises(dv.InputError, match=r"^corruption: expected a pyro_dvae corruption, got float$"):
        dv.DenoisingGuide(guide, 0.1)
    for event_dim in (-1, 1.5, True):
        with pytest.raises(dv.InputError, match=r"^event_dim: expected a whole number of at least 0, got"):
            dv.DenoisingGuide(guide, dv.BitFlip(0.1), event_dim=event_dim)
    for dim in (0, 1, -1.0, True, None):
        with pytest.raises(
            dv.InputError, match=rf"^plates: expected a dim below 0 .*, got {dim} for 'data'$"
        ):
            dv.DenoisingGuide(guide, dv.BitFlip(0.1), plates={"data": dim})


def test_bad_data_are_refused():
    wrapped = dv.DenoisingGuide(plated(len), dv.BitFlip(0.1))
    with pytest.raises(
        dv.InputError, match=r"^x: expected a tensor as the guide's first argument, got list$"
    ):
        wrapped([[0.0, 1.0]])
    with pytest.raises(dv.InputError, match=r"^x: expected finite values, got 1 NaN"):
        wrapped(torch.tensor([[0.0, float("nan")]]))
    far = dv.DenoisingGuide(plated(len), dv.BitFlip(0.1), plates={"data": -3})
    with pytest.raises(
        dv.InputError, match=r"^plates: plate 'data' lies at dim -3, left of x of shape \(4, 3\)"
    ):
        far(torch.rand(4, 3))


def test_a_site_of_the_same_name_is_refused_with_the_remedy():
    wrapped = dv.DenoisingGuide(dv.GaussianGuide.of_sizes(3, 2, (4,)), dv.BitFlip(0.1))
    with pytest.raises(dv.InputError, match="name: the guide already has a site 'x_tilde'; give"):
        wrapped(bits(4, 3).float())


def test_a_guide_without_sites_is_refused():
    with pytest.raises(dv.InputError, match=r"^guide: expected at least one sample site, got none$"):
        dv.DenoisingGuide(lambda x: None, dv.BitFlip(0.1))(torch.rand(4, 3))


# GaussianGuide


def test_the_gaussian_guide_is_corrupt_then_encode():
    torch.manual_seed(1)
    encoder, corruption = GaussianEncoder(3, 2, (4,)), dv.SaltAndPepper(0.5)
    x = torch.rand(5, 3)
    guide = dv.GaussianGuide(encoder, corruption)
    trace = poutine.trace(guide).get_trace(x)
    assert [name for name in trace.stochastic_nodes if name != "data"] == ["x_tilde", "z"]
    x_tilde, z = trace.nodes["x_tilde"], trace.nodes["z"]
    assert {frame.name for frame in x_tilde["cond_indep_stack"]} == {"data"}
    assert not torch.equal(x_tilde["value"], x)
    loc, scale = encoder(x_tilde["value"])
    assert torch.equal(z["fn"].base_dist.loc, loc)
    assert torch.equal(z["fn"].base_dist.scale, scale)
    assert trace.nodes["_RETURN"]["value"] is z["value"]
    assert z["value"].shape == (5, 2)
    assert all(name.startswith("encoder$$$") for name in trace.param_nodes)
    assert len(trace.param_nodes) == 4


def test_the_gaussian_guide_registers_its_learned_corruption():
    guide = dv.GaussianGuide(GaussianEncoder(3, 2, (4,)), dv.BitFlip(0.3, learnable=True))
    guide(torch.rand(5, 3))
    assert "x_tilde$$$rate.raw" in pyro.get_param_store()


def test_the_gaussian_guide_follows_the_exact_bound():
    """With a linear encoder it is the guide of the linear-Gaussian problem."""
    problem = LinearGaussian()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    class Linear(nn.Module):
        def forward(self, x_tilde):
            loc = x_tilde @ problem.A.T + problem.c
            return loc, (problem.log_v / 2).exp().expand_as(loc)

    guide = dv.GaussianGuide(Linear(), problem.corruption)
    bound = dv.TraceDenoising_ELBO(num_corruptions=5, num_particles=5)
    values = torch.stack([bound.per_datum(problem.model, guide, x) for _ in range(300)])
    check_estimates("bound", values, problem.l_dvae(x).detach())


def test_the_gaussian_guide_refuses_what_is_no_corruption():
    with pytest.raises(dv.InputError, match=r"^corruption: expected a pyro_dvae corruption, got float$"):
        dv.GaussianGuide(GaussianEncoder(3, 2, (4,)), 0.1)(torch.rand(5, 3))


def test_a_wrapped_binary_problem_keeps_the_exact_gradient_of_its_rate():
    problem = BinaryProblem(dv.BitFlip(double([0.1, 0.3, 0.6]), learnable=True))
    x = bits(4, 3)

    def plain(x):
        register("problem", problem)
        with pyro.plate("data", x.shape[-2]):
            loc, scale = problem.encode(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    wrapped = dv.DenoisingGuide(plain, problem.corruption)
    problem.l_dvae(x).sum().backward()
    expected = gradients(problem)["corruption.rate.raw"]
    bound = dv.TraceDenoising_ELBO(num_corruptions=4, num_particles=1)
    found = []
    for _ in range(250):
        bound.loss_and_grads(problem.model, wrapped, x)
        found.append(-gradients(problem)["corruption.rate.raw"])
    check_estimates("rate", torch.stack(found), expected)


# What every guide keeps to, as in the contract tests of the amortised ones


def wrapped_gaussian(seed=0):
    torch.manual_seed(seed)
    noise = dv.GaussianNoise(double(0.3), learnable=True)
    return dv.DenoisingGuide(dv.GaussianGuide.of_sizes(3, 2, (4,)), noise, name="noisy").double()


def model_of_three(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        logits = z.sum(-1, keepdim=True) * x.new_ones(3)
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def loss_of(guide, x, m=2, k=3):
    pyro.set_rng_seed(3)
    return dv.TraceDenoising_ELBO(num_corruptions=m, num_particles=k).loss(model_of_three, guide, x)


def test_a_wrapped_guide_is_saved_and_loaded(tmp_path):
    with pyro.settings.context(module_local_params=True):
        one, other, x = wrapped_gaussian(), wrapped_gaussian(seed=1), bits(5, 3)
        assert loss_of(one, x) != loss_of(other, x)
        torch.save(one.state_dict(), tmp_path / "guide.pt")
        other.load_state_dict(torch.load(tmp_path / "guide.pt", weights_only=True))
        assert loss_of(one, x) == loss_of(other, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wrapped_guide_keeps_the_type_and_reaches_every_parameter(dtype):
    guide, x = wrapped_gaussian().to(dtype), bits(5, 3).to(dtype)
    loss = dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3).differentiable_loss(
        model_of_three, guide, x
    )
    assert loss.dtype == dtype
    loss.backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("shape", "data_size", "rows", "found"),
    [
        ((5, 3), 3, 5, 1),
        ((2, 5, 3), 3, 5, 1),  # draws of a corruption around
        ((5, 3, 4, 4), 48, 5, 3),
        ((2, 1, 5, 3, 4, 4), 48, 5, 3),
        ((5, 3, 4, 4), None, 5, 3),
        ((2, 1, 5, 3, 4, 4), None, 5, 3),
        ((2, 5, 3), None, 5, 1),
        ((5, 3), None, None, 1),
        ((5,), None, 5, 1),
    ],
)
def test_the_dimensions_of_a_row_are_distinguished_from_draws(shape, data_size, rows, found):
    assert event_dimensions(torch.zeros(shape), data_size, rows) == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_wrapped_guide_moves_to_the_accelerator():
    guide, x = wrapped_gaussian(), bits(5, 3)
    with dv.clean_input():
        trace = poutine.trace(guide).get_trace(x)
        trace.compute_log_prob()
        expected = float(trace.nodes["z"]["log_prob_sum"].detach())
        z = trace.nodes["z"]["value"]
        pyro.clear_param_store()
        found = poutine.trace(poutine.condition(guide.cuda(), {"z": z.cuda()})).get_trace(x.cuda())
        found.compute_log_prob()
    assert float(found.nodes["z"]["log_prob_sum"].detach()) == pytest.approx(expected, abs=1e-8)


def test_latents_outside_of_the_plate_ask_for_its_name():
    def guide(x):
        pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", x.shape[-2]):
            pyro.sample("z", dist.Normal(x.sum(-1), 1.0))

    x = torch.rand(4, 3)
    with pytest.raises(dv.InputError, match=r"^plates: .* as in plates=\{'rows': -1\}$"):
        dv.DenoisingGuide(guide, dv.BitFlip(0.1))(x)
    wrapped = dv.DenoisingGuide(guide, dv.BitFlip(0.1), plates={"rows": -1})
    trace = pyro.poutine.trace(wrapped).get_trace(x)
    assert [frame.name for frame in trace.nodes["x_tilde"]["cond_indep_stack"]] == ["rows"]


def test_a_plate_without_a_size_holds_the_corruption():
    def guide(x):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(x.sum(-1), 1.0))

    x = torch.rand(4, 3)
    trace = pyro.poutine.trace(dv.DenoisingGuide(guide, dv.BitFlip(0.1))).get_trace(x)
    (frame,) = trace.nodes["x_tilde"]["cond_indep_stack"]
    assert (frame.name, frame.size) == ("data", 4)
