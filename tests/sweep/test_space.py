"""The texts that say what a sweep searches."""

import pytest

import pyro_dvae as dv
from pyro_dvae.jobs.options import Options
from pyro_dvae.jobs.sweep.space import Dimension, changing_validation, parsed


def test_ranges_and_choices():
    found = parsed(
        [
            "noise=0:0.3",
            "learning-rate=1e-4:1e-2:log",
            "latent_size=10,20,50",
            "width=50:200",
            "bound=dvae,diwae",
            "learn-noise=true,false",
            "clip-norm=1:10",
        ]
    )
    assert found == (
        Dimension("noise", 0.0, 0.3),
        Dimension("learning_rate", 1e-4, 1e-2, log=True),
        Dimension("latent_size", choices=(10, 20, 50)),
        Dimension("width", 50, 200),
        Dimension("bound", choices=("dvae", "diwae")),
        Dimension("learn_noise", choices=(True, False)),
        Dimension("clip_norm", 1.0, 10.0),
    )
    assert [type(each.low) for each in found[:4:3]] == [float, int]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noise", "expected NAME=LOW:HIGH"),
        ("noise=", "expected NAME=LOW:HIGH"),
        ("=1:2", "expected NAME=LOW:HIGH"),
        ("nois=0:1", "did you mean 'noise'"),
        ("noise=0:1:linear", "expected NAME=LOW:HIGH"),
        ("noise=0:1:log:2", "expected NAME=LOW:HIGH"),
        ("noise=0:1:log", "above 0"),
        ("noise=0.3:0.1", "lower to a higher"),
        ("noise=a:b", "expected numbers for noise"),
        ("noise=nan:1", "expected numbers for noise"),
        ("noise=1e400:2", "expected numbers for noise"),
        ("noise=0.1,,0.2", "expected numbers for noise"),
        ("noise=0.1,0.1", "different choices"),
        ("width=10:20.5", "expected whole numbers for width"),
        ("width=10,2.5", "expected whole numbers for width"),
        ("bound=dvae:diwae", "bound is not a number"),
        ("bound=dvae,dive", "did you mean 'dvae'"),
        ("learn-noise=yes,no", "expected true or false"),
        ("salt=,rate", "expected"),
        ("dataset=mnist,digits", "changes the data or the device"),
        ("seed=0:9", "changes the data or the device"),
        ("likelihood=bernoulli,gaussian", "bounds of bernoulli, gaussian are not comparable"),
        ("likelihood=poisson,multinomial", "are not comparable"),
        ("likelihood=auto,bernoulli", "are not comparable"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(dv.InputError, match=message):
        parsed([text])


def test_an_option_is_given_once():
    with pytest.raises(dv.InputError, match="nothing to search"):
        parsed([])
    with pytest.raises(dv.InputError, match="noise is searched twice"):
        parsed(["noise=0:1", "noise=0.1,0.2"])
    with pytest.raises(dv.InputError, match="noise is also given as an option"):
        parsed(["noise=0:1"], frozenset({"noise"}))


@pytest.mark.parametrize(
    "choices",
    ["gaussian,gaussian-per-pixel,full-covariance", "poisson,zero-inflated-negative-binomial", "bernoulli"],
)
def test_likelihoods_on_one_support_are_compared(choices):
    assert parsed([f"likelihood={choices}"])[0].choices == tuple(choices.split(","))


@pytest.mark.parametrize(
    ("search", "bound", "differing"),
    [
        (["latent-size=2,3"], "dvae", None),
        (["bound=dvae,mean-field"], "dvae", None),  # both are validated by L_dvae
        (["particles=1:5"], "dvae", None),
        (["particles=1:5"], "diwae", "particles"),
        (["bound=dvae,diwae"], "dvae", "bound"),
        (["bound=diwae", "particles=1,5"], "dvae", "bound and particles"),
    ],
)
def test_trials_may_differ_in_their_validation_bound(search, bound, differing):
    assert changing_validation(Options(bound=bound), parsed(search)) == differing
