"""Where the bound with closed-form divergences equals the bound, and where it must be refused."""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import check_estimates, gradients
from torch import nn

import pyro_dvae as dv
from pyro_dvae.engine import CompiledSVI
from pyro_dvae.networks import BernoulliDecoder, GaussianDecoder
from pyro_dvae.programs.dependence import out_of_order
from pyro_dvae.registration import register

F64 = torch.float64
SIGMA = 0.4
REMEDY = "use TraceDenoising_ELBO"


class Sites(nn.Module):
    """Scalar Gaussian latents by their parents, in the guide and in the model: the bound is known.

    z_i ~ N(a_i x̃ + Σ_j G_ij z_j, s_i²) in the guide; z_i ~ N(Σ_j P_ij z_j, p_i²), x ~ N(w·z, 1) in the model.

    :param guide: the parents of each latent in the guide, in the order in which they are drawn there.
    :param model: those in the model, in its order.
    """

    def __init__(self, guide, model):
        super().__init__()
        self.names, self.guide_parents, self.model_parents = sorted(guide), guide, model
        generator = torch.Generator().manual_seed(3)

        def weights(*shape, least=0.0):
            drawn = torch.randn(*shape, generator=generator, dtype=F64)
            return nn.Parameter(0.4 * drawn + least * drawn.sign())

        size = len(guide)
        self.a, self.w, self.s, self.p = (weights(size) for _ in range(4))
        self.G, self.P = weights(size, size, least=0.5), weights(size, size, least=0.5)
        self.noise = dv.GaussianNoise(torch.tensor(SIGMA, dtype=F64))

    def mean(self, weights, parents, name, drawn):
        row = weights[self.names.index(name)]
        return sum(row[self.names.index(parent)] * drawn[parent] for parent in parents[name])

    def guide(self, x):
        register("sites", self)
        drawn = {}
        with pyro.plate("data", len(x)):
            x_tilde = dv.corrupt("x_tilde", self.noise, x, event_dim=0)
            for name in self.guide_parents:
                place = self.names.index(name)
                loc = self.a[place] * x_tilde + self.mean(self.G, self.guide_parents, name, drawn)
                drawn[name] = pyro.sample(name, dist.Normal(loc, self.s[place].exp()))

    def model(self, x):
        register("sites", self)
        drawn = {}
        with pyro.plate("data", len(x)):
            for name in self.model_parents:
                loc = self.mean(self.P, self.model_parents, name, drawn)
                loc = loc if isinstance(loc, torch.Tensor) else x.new_zeros(())
                drawn[name] = pyro.sample(name, dist.Normal(loc, self.p[self.names.index(name)].exp()))
            loc = sum(self.w[place] * drawn[name] for place, name in enumerate(self.names))
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def l_dvae(self, x):
        """Exact denoising bound of each of the data x (nats)."""

        def mask(parents):
            rows = [[float(j in parents[i]) for j in self.names] for i in self.names]
            return torch.tensor(rows, dtype=F64)

        eye = torch.eye(len(self.names), dtype=F64)
        up = (eye - self.G * mask(self.guide_parents)).inverse()
        mean = x[:, None] * (up @ self.a)
        covariance = up @ (torch.diag((2 * self.s).exp()) + SIGMA**2 * self.a.outer(self.a)) @ up.T
        away = eye - self.P * mask(self.model_parents)
        square = (mean @ away.T) ** 2 + (away @ covariance @ away.T).diagonal()
        prior = -0.5 * (math.log(2 * math.pi) + 2 * self.p + square / (2 * self.p).exp()).sum(-1)
        error = (x - mean @ self.w) ** 2 + self.w @ covariance @ self.w
        entropy = (0.5 * math.log(2 * math.pi * math.e) + self.s).sum()
        return prior - 0.5 * (math.log(2 * math.pi) + error) + entropy


# Which latents each is drawn from: in the guide, in the model.
RIGHT = {
    "one latent": ({"a": ""}, {"a": ""}),
    "independent": ({"a": "", "b": ""}, {"a": "", "b": ""}),
    "independent, in another order": ({"b": "", "a": ""}, {"a": "", "b": ""}),
    "a chain in the order of the model": ({"a": "", "b": "a", "c": "b"}, {"a": "", "b": "a", "c": "b"}),
    "steps of a recurrence": ({"a": "", "b": "a", "c": "ab"}, {"a": "", "b": "", "c": ""}),
    "steps in another order": ({"c": "", "b": "c", "a": "bc"}, {"a": "", "b": "", "c": ""}),
    "a chain that comes down in both": ({"b": "", "a": "b"}, {"b": "", "a": "b"}),
    "mean field, a hierarchy in the model": ({"a": "", "b": ""}, {"b": "", "a": "b"}),
    "no order in common": ({"a": "", "b": "", "c": "a"}, {"c": "", "b": "c", "a": "b"}),
}
WRONG = {
    "a chain that goes up and comes down": (({"a": "", "b": "a"}, {"b": "", "a": "b"}), "'b' given 'a'"),
    "over a third": (({"a": "", "b": "a", "c": "b"}, {"c": "", "a": "c", "b": ""}), "'c' given 'a'"),
    "one of several": (({"a": "", "b": "", "c": "b"}, {"a": "", "c": "a", "b": "c"}), "'c' given 'b'"),
}


def data(count=3):
    return torch.randn(count, generator=torch.Generator().manual_seed(5), dtype=F64)


def estimated(bound, problem, x, repeats=20_000):
    """Many estimates of the bound of each datum, [repeats, N]."""
    return bound.per_datum(problem.model, problem.guide, x.repeat(repeats)).reshape(repeats, -1)


@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_it_is_the_bound_if_no_prior_depends_on_a_latent_drawn_from_its_own(case):
    problem, x = Sites(*case), data()
    exact = problem.l_dvae(x)
    exact.sum().backward()
    expected = gradients(problem)
    for m, k in ((1, 1), (2, 3)):
        bound = dv.TraceMeanFieldDenoising_ELBO(num_corruptions=m, num_particles=k, max_plate_nesting=1)
        check_estimates(f"bound of {m}, {k}", estimated(bound, problem, x), exact.detach())
    bound = dv.TraceMeanFieldDenoising_ELBO(max_plate_nesting=1)
    rows, grads = x.repeat(400), []
    for _ in range(40):
        bound.loss_and_grads(problem.model, problem.guide, rows)
        grads.append(gradients(problem))
    for name, value in expected.items():
        check_estimates(name, -torch.stack([each[name] for each in grads]) / 400, value)


@pytest.mark.parametrize(("case", "message"), WRONG.values(), ids=WRONG)
def test_a_circular_pair_is_refused(case, message):
    problem, x = Sites(*case), data()
    pattern = rf"^guide: it draws {message}, whose prior in the model .*; {REMEDY}$"
    for m, k in ((1, 1), (2, 3)):
        bound = dv.TraceMeanFieldDenoising_ELBO(num_corruptions=m, num_particles=k)
        for call in (bound.loss, bound.loss_and_grads, bound.differentiable_loss, bound.per_datum):
            with pytest.raises(dv.InputError, match=pattern):
                call(problem.model, problem.guide, x)
        with pyro.validation_enabled(False), pytest.raises(dv.InputError, match=REMEDY):
            bound.loss(problem.model, problem.guide, x)
    exact = problem.l_dvae(x).detach()
    check_estimates("the remedy", estimated(dv.TraceDenoising_ELBO(), problem, x), exact)
    # The reason for the error: another value, with any number of draws.
    unchecked = dv.TraceMeanFieldDenoising_ELBO()
    unchecked._refuse_dependent_priors = lambda draws, closed: None
    found = estimated(unchecked, problem, x)
    distance = (found.mean(0) - exact).abs() / (found.std(0) / math.sqrt(len(found)))
    assert float(distance.min()) > 10


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_chain_guide_is_refused_from_two_layers_on(depth):
    guide = dv.ChainGuide.of_sizes(6, 2, (8,), num_layers=depth, corruption=dv.GaussianNoise(0.1))
    model = dv.ChainModel.of_sizes(6, 2, (8,), num_layers=depth, likelihood=GaussianDecoder)
    x, bound = torch.rand(20, 6), dv.TraceMeanFieldDenoising_ELBO()
    if depth == 1:
        assert math.isfinite(bound.loss_and_grads(model, guide, x))
        return
    for run in (
        lambda: bound.loss_and_grads(model, guide, x),
        lambda: bound.loss(model, dv.DenoisingGuide(guide, dv.Masking(0.1), name="outer"), x),
        lambda: pyro.infer.SVI(model, guide, pyro.optim.Adam({}), bound).step(x),
        lambda: dv.fit(model, guide, x, loss=bound, epochs=1, progress=False),
    ):
        with pytest.raises(dv.InputError, match=rf"draws 'z{depth}' given 'z{depth - 1}'.*{REMEDY}$"):
            run()


def test_weights_in_another_order_than_the_models():
    decoder = BernoulliDecoder(6, 2, (4,))
    start = copy.deepcopy(decoder)
    for part in start.modules():
        part._parameters = dict(reversed(part._parameters.items()))
    guide = dv.GaussianGuide.of_sizes(6, 2, (4,), corruption=dv.Masking(0.1))
    bayes = dv.FullBayes(decoder, guide, 100, start=start, initial_scale=0.5)
    bound = dv.TraceMeanFieldDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1)
    x = torch.rand(4, 6).round()
    draws = bound.draws(bayes.model, bayes.guide, (x,), {})
    assert out_of_order(draws)
    closed, sampled = (
        torch.tensor([each.loss(bayes.model, bayes.guide, x) for _ in range(400)])
        for each in (bound, dv.TraceDenoising_ELBO(num_corruptions=2, num_particles=3, max_plate_nesting=1))
    )
    check_estimates("difference", closed - sampled, torch.zeros(()))


class Bits(nn.Module):
    """Two bits, enumerable: the model draws b from a; the guide draws a after b and, if requested, from b."""

    def __init__(self, by_guide):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = nn.Parameter(torch.randn(6, 2, generator=generator, dtype=F64))
        self.by_guide = by_guide

    def logits(self, row, bit=None):
        return self.table[row, 0 if bit is None else bit.long()]

    def guide(self, x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.logits(0) * x))
            pyro.sample("a", dist.Bernoulli(logits=self.logits(1, b if self.by_guide else None) * x))

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.logits(2)))
            b = pyro.sample("b", dist.Bernoulli(logits=self.logits(3, a)))
            pyro.sample("x", dist.Normal(self.logits(4, a) + self.logits(5, b), 1.0), obs=x)

    def exact(self, x):
        total = 0.0
        for a, b in itertools.product(torch.tensor([0.0, 1.0], dtype=F64), repeat=2):
            terms = [
                dist.Bernoulli(logits=self.logits(0) * x).log_prob(b),
                dist.Bernoulli(logits=self.logits(1, b if self.by_guide else None) * x).log_prob(a),
            ]
            log_q = sum(terms)
            log_p = dist.Bernoulli(logits=self.logits(2)).log_prob(a)
            log_p = log_p + dist.Bernoulli(logits=self.logits(3, a)).log_prob(b)
            log_p = log_p + dist.Normal(self.logits(4, a) + self.logits(5, b), 1.0).log_prob(x)
            total = total + log_q.exp() * (log_p - log_q)
        return total


def test_discrete_latents_by_enumeration():
    x = data()
    bound = dv.TraceMeanFieldDenoising_ELBO(num_corruptions=1, num_particles=2, max_plate_nesting=1)
    problem = Bits(by_guide=False)
    check_estimates("independent in the guide", estimated(bound, problem, x), problem.exact(x).detach())
    problem = Bits(by_guide=True)
    with pytest.raises(dv.InputError, match=rf"draws 'a' given 'b'.*{REMEDY}$"):
        bound.loss_and_grads(problem.model, problem.guide, x)
    sampled = dv.TraceDenoising_ELBO(num_corruptions=1, num_particles=2, max_plate_nesting=1)
    check_estimates("sampled", estimated(sampled, problem, x), problem.exact(x).detach())


def pair(draw_b, loc_of_a, first="Normal", before=lambda a: None):
    """A guide that draws b after a, and a model in which the prior of a depends on b as the arguments say."""
    q = {"Normal": dist.Normal, "StudentT": lambda loc, scale: dist.StudentT(4.0, loc, scale)}[first]

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", q(0.5 * x, 0.7))
            before(a)
            pyro.sample("b", dist.Normal(draw_b(a, x), 0.6))

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            a = pyro.sample("a", dist.Normal(loc_of_a(b, x), 1.0))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    return model, guide


def in_place(a, x):
    loc = torch.empty(2, *a.shape, dtype=a.dtype)
    loc[0] = x
    loc[1].copy_(a)
    return loc[1]


WAYS = {  # by which a value reaches another
    "product": lambda a, x: 2 * a,
    "detached": lambda a, x: a.detach() + x,
    "sign": lambda a, x: torch.where(a > 0, 1.0, -1.0).to(a.dtype),
    "index": lambda a, x: torch.tensor([-1.0, 1.0], dtype=a.dtype)[(a > 0).long()],
    "in place": in_place,
    "branch": lambda a, x: x if float(a.sum()) > 0 else -x,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_depending_is_seen(way):
    x, bound = data(), dv.TraceMeanFieldDenoising_ELBO()
    for programs in (pair(WAYS[way], WAYS["product"]), pair(WAYS["product"], WAYS[way])):
        with pytest.raises(dv.InputError, match=rf"draws 'b' given 'a'.*{REMEDY}$"):
            bound.loss_and_grads(*programs, x)


SHAPES = {
    "zeros": lambda a, x: torch.zeros_like(a) + x,
    "filled": lambda a, x: a.new_full(a.shape, 0.3),
    "size": lambda a, x: x.expand(a.shape),
    "a parameter that the other was drawn at": lambda a, x: SHARED + x,
}
SHARED = torch.tensor(0.2, dtype=F64)


@pytest.mark.parametrize("way", SHAPES)
def test_the_shape_of_another_latent_is_no_dependence(way):
    x = data().repeat(20_000)
    both = [pair(SHAPES[way], WAYS["product"]), pair(WAYS["product"], SHAPES[way])]
    for model, guide in both:
        closed, sampled = (
            bound.per_datum(model, guide, x)
            for bound in (dv.TraceMeanFieldDenoising_ELBO(), dv.TraceDenoising_ELBO())
        )
        check_estimates("difference", closed - sampled, torch.zeros((), dtype=F64))


def test_a_draw_that_is_a_parameter_leaves_other_uses_of_it_alone():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Delta(SHARED.expand(x.shape)))
            pyro.sample("b", dist.Normal(SHARED * x, 0.6))

    model, _ = pair(None, WAYS["product"])
    x, bound = data(), dv.TraceMeanFieldDenoising_ELBO()
    assert math.isfinite(bound.loss(model, guide, x))


def test_a_divergence_that_is_not_known_is_sampled_and_so_right():
    """The prior of ``a`` depends on a latent drawn from ``a``, but Student's t has no closed form."""
    model, guide = pair(WAYS["product"], WAYS["product"], first="StudentT")
    x = data().repeat(20_000)
    closed, sampled = (
        bound.per_datum(model, guide, x)
        for bound in (dv.TraceMeanFieldDenoising_ELBO(), dv.TraceDenoising_ELBO())
    )
    check_estimates("difference", closed - sampled, torch.zeros((), dtype=F64))


def test_looking_at_the_pair_leaves_the_random_streams_alone_and_is_done_once():
    problem, x, runs = Sites(*RIGHT["mean field, a hierarchy in the model"]), data(), []

    def guide(x):
        runs.append(None)
        problem.guide(x)

    bound, losses = dv.TraceMeanFieldDenoising_ELBO(), []
    for _ in range(3):
        pyro.set_rng_seed(1)
        losses.append(bound.loss_and_grads(problem.model, guide, x))
        losses.append(float(torch.rand(())))
    assert losses[:2] == losses[2:4] == losses[4:]
    assert len(runs) == 4


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("seen", [False, True])
def test_a_compiled_step_equals_that_of_svi(seen):
    """The second run of the pair is not recorded, neither before nor during the recording."""
    results = []
    for kind in (pyro.infer.SVI, CompiledSVI):
        pyro.clear_param_store()
        problem, x = Sites(*RIGHT["no order in common"]), data()
        bound = dv.TraceMeanFieldDenoising_ELBO(max_plate_nesting=1)
        loop = kind(problem.model, problem.guide, pyro.optim.Adam({"lr": 0.03}), bound)
        pyro.set_rng_seed(3)
        losses = []
        for _ in range(5):
            losses.append(loop.step(x))
            if not seen:
                bound._cleared = None
        results.append(losses)
    assert results[1] == pytest.approx(results[0], rel=1e-9)
    assert loop.recorded > 0
