"""Sweeps on the digits: complete, stopped, joined, on executors."""

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from matplotlib import colormaps
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

import pyro_dvae as dv
from pyro_dvae.cli import main
from pyro_dvae.evaluation import evaluate_bound
from pyro_dvae.jobs import guess
from pyro_dvae.jobs.effects import require_effect
from pyro_dvae.jobs.folder import read_config
from pyro_dvae.jobs.loading import load
from pyro_dvae.jobs.options import Options, TrainRequest
from pyro_dvae.jobs.sweep import report, running, trial
from pyro_dvae.jobs.sweep.journal import JOURNAL
from pyro_dvae.jobs.sweep.running import sweep
from pyro_dvae.jobs.sweep.space import Dimension, parsed
from pyro_dvae.jobs.sweep.trial import Sweep

SEARCH = ("noise=0:0.3", "latent-size=2,5")
TINY = Options(dataset="digits", epochs=3, width=8, batch_size=400, importance_samples=0, compiled=False)
COMMAND = ["sweep", *(part for each in SEARCH for part in ("--search", each)), "--dataset", "digits"]
COMMAND += [
    "--epochs",
    "3",
    "--width",
    "8",
    "--batch-size",
    "400",
    "--importance-samples",
    "0",
    "--no-compile",
]


def request(folder, options=TINY, given=()):
    return TrainRequest(options, frozenset(given), str(folder), None, quiet=True)


def swept(folder, trials=4, **settings):
    return sweep(request(folder), SEARCH, trials=trials, **{"jobs": 1, **settings})


def study_of(folder):
    return Sweep(Path(folder), TINY, frozenset(), (), 0).study()


def table_of(folder):
    return list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))


def values(folder):
    return [each.value for each in study_of(folder).get_trials()]


def with_test_results(folder):
    return [path.parent.name for path in folder.glob("trials/*/results.json")]


def test_a_sweep_finds_the_best_and_tests_it_alone(tmp_path):
    folder = tmp_path / "sweep"
    text = swept(folder)
    study = study_of(folder)
    best = study.best_trial
    assert len(study.trials) == 4
    assert with_test_results(folder) == [f"{best.number:04d}"]
    assert f"trial {best.number} on the test data" in text
    rows = table_of(folder)
    assert [int(row["trial"]) for row in rows] == [0, 1, 2, 3]
    assert max(float(row["objective"]) for row in rows) == best.value
    assert all((row["validation_bound"], row["epochs_done"]) == (row["objective"], "3") for row in rows)
    assert all(0 <= float(row["noise"]) <= 0.3 and row["latent_size"] in "25" for row in rows)
    for name in ("importance", "parallel_coordinates"):
        assert (folder / f"{name}.png").stat().st_size > 3000
    found = load(folder / "trials" / f"{best.number:04d}")
    assert found.history.best_validation_bound == best.value
    assert len({round(float(row["noise"]), 9) for row in rows}) == 4
    # The same again does nothing; more trials are added, and a sweep of other options is another one.
    before = values(folder)
    assert swept(folder) == text
    assert values(folder) == before
    swept(folder, trials=5)
    assert values(folder)[:4] == before
    with pytest.raises(dv.InputError, match="has epochs 3, got 4; name another folder"):
        sweep(request(folder, replace(TINY, epochs=4)), SEARCH, trials=4)
    with pytest.raises(dv.InputError, match="has objective 'validation', got 'iwae'"):
        sweep(request(folder, replace(TINY, importance_samples=5)), SEARCH, trials=4, objective="iwae")
    # A run is no sweep, and the best run must be there for its test.
    best = study_of(folder).best_trial
    place = folder / "trials" / f"{best.number:04d}"
    with pytest.raises(dv.InputError, match="has a training run, not a sweep"):
        swept(place)
    shutil.rmtree(place)
    with pytest.raises(dv.InputError, match=f"the best trial has no checkpoint in {place}"):
        swept(folder, trials=5)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    kept = []
    monkeypatch.setattr(report, "write_figure", lambda path, figure: kept.append(figure) or path)
    return kept


def finished(bounds, **options):
    """Return finished trials, the best first, with a value of each option and a bound."""
    values = [dict(zip(options, each, strict=True)) for each in zip(*options.values(), strict=True)]
    kinds = {name: CategoricalDistribution(sorted(set(each))) for name, each in options.items()}
    return [
        optuna.trial.create_trial(params=params, distributions=kinds, value=bound)
        for params, bound in zip(values, bounds, strict=True)
    ]


def test_labels_of_parallel_coordinates_end_before_the_next_axis(drawn):
    names = ["discretised-logistic-mixture", "discretised-logistic"]
    space = parsed([f"likelihood={','.join(names)}", "minimum-noise=0.001:0.1"])
    trials = finished([-90.0, -92.5], likelihood=names, minimum_noise=[0.001, 0.1])
    report._parallel_coordinates(Path("x.png"), space, trials)
    (axes,) = drawn[0].axes
    drawn[0].canvas.draw()
    places = axes.transData.transform([(place, 0) for place in axes.get_xticks()])[:, 0]
    ends = [*places[1:], drawn[0].bbox.x1]
    for label in axes.texts:
        own = int(np.argmin(abs(axes.get_xticks() - label.xy[0])))
        box = label.get_window_extent()
        assert places[own] < box.x0 < box.x1 < ends[own], label.get_text()
        assert label.get_bbox_patch().get_facecolor()[:3] == (1, 1, 1)
        assert label.get_zorder() > max(line.get_zorder() for line in axes.lines)
    texts = {each.get_text() for each in axes.texts}
    assert texts == {*names, "0.001", "0.1", "-92.50", "-90.00"}


@pytest.mark.parametrize("bounds", [(-90.0, -91.0, -92.0), (-90.0, -90.0, -90.0)])
def test_the_best_trial_is_the_darkest(bounds, drawn):
    trials = finished(bounds, latent_size=[2, 3, 2])
    report._parallel_coordinates(Path("x.png"), parsed(["latent-size=2,3"]), trials)
    lines = [each for each in drawn[0].axes[0].lines if each.get_linewidth() != 0.8]
    best = lines[-1]
    assert best.get_linewidth() == 2.5
    assert best.get_color() == colormaps["viridis_r"](1.0)
    assert best.get_ydata()[-1] == 1.0
    assert len(lines) == 3


def test_the_importance_is_of_the_objective(drawn, tmp_path):
    space = parsed(["latent-size=2,3", "width=4,5"])
    trials = finished([-90.0, -91.0, -92.0], latent_size=[2, 3, 2], width=[4, 4, 5])
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    for objective, words in (("validation", "the"), ("iwae", "the importance-weighted")):
        report._pictures(Sweep(tmp_path, TINY, frozenset(), space, 3, objective), study, trials)
        label = drawn[-1].axes[0].get_xlabel()
        assert label == f"share of the variance of {words} validation bound"


def test_options_and_results_have_different_columns():
    assert not {*report._COLUMNS, "reason"} & set(Options().as_dict())


def test_the_same_options_are_trained_once(tmp_path):
    folder = tmp_path / "s"
    search = ["latent-size=2,3"]
    sweep(request(folder), search, trials=5, jobs=1)
    study = study_of(folder)
    trained = [path.parent.name for path in sorted(folder.glob("trials/*/config.json"))]
    assert len(trained) == 2
    found = {each.params["latent_size"]: each.value for each in study.trials if each.duration}
    assert [each.value for each in study.trials] == [
        found[each.params["latent_size"]] for each in study.trials
    ]
    reasons = [row["reason"] for row in table_of(folder)]
    assert sum("same options as trial" in each for each in reasons) == 3
    # If the best trial was not trained itself, the one with its options is the best.
    best = study.best_trial
    study.enqueue_trial(best.params)
    again = study.ask()
    parsed(search)[0].suggested(again)
    again.set_user_attr(trial.SAME_AS, best.number)
    study.tell(again, best.value + 1)
    text = sweep(request(folder), search, trials=6, jobs=1)
    assert with_test_results(folder) == [f"{best.number:04d}"]
    assert f"trial {best.number} on the test data" in text


def test_a_damaged_journal(tmp_path):
    first = study_of(tmp_path).ask()
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    another = study_of(tmp_path)  # of a process that goes on while the first one finds the disk full
    journal.write_bytes(whole + b'{"op_code": 5, "wor')
    another.tell(first.number, 1.5)
    assert journal.read_bytes().startswith(whole)
    assert values(tmp_path) == [1.5]
    for damage in (b'{"op_code": 5, "wor{}\n', b'{"op_code": 5}\n', b"[]\n", b"\xff\n"):
        journal.write_bytes(whole + damage + whole)
        with pytest.raises(dv.DataError, match=r"journal\.log is damaged: .*; restore it"):
            study_of(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="makes a symbolic link")
def test_a_folder_that_was_moved_after_a_kill_is_usable(tmp_path):
    study_of(tmp_path).ask()
    link = tmp_path / f"{JOURNAL}.lock"  # what Optuna's own lock leaves, which then points nowhere
    link.symlink_to("/nowhere/journal.log")
    study_of(tmp_path).ask()
    assert len(study_of(tmp_path).trials) == 2


def test_a_sweep_goes_on_after_an_incomplete_line(tmp_path):
    folder = tmp_path / "s"
    swept(folder, trials=1)
    before = values(folder)
    with open(folder / JOURNAL, "a") as file:
        file.write('{"op_code": 5, "wor')
    swept(folder, trials=2)
    assert values(folder)[:1] == before
    assert len(values(folder)) == 2


def test_optuna_is_quiet_in_every_process(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    study_of(tmp_path)  # what each worker calls first
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def test_given_options_are_kept_and_a_search_overrides_a_file_of_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(0, 2, (60, 4))
    np.savetxt("rows.csv", values, delimiter=",", header="a,b,c,d", comments="", fmt="%d")
    file = "latent_size = 7\nnoise = 0.1\nlikelihood = 'gaussian-columns'\n"
    Path("options.toml").write_text(file)
    command = ["sweep", "--config", "options.toml", "--dataset", "rows.csv", "--search", "latent-size=2,3"]
    command += ["--trials", "1", "--jobs", "1", "--epochs", "1", "--width", "4", "--quiet", "--output", "s"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert not ended.value.code
    options = read_config(tmp_path / "s" / "trials" / "0000")["options"]
    assert options["latent_size"] in (2, 3)
    assert (options["noise"], options["likelihood"]) == (0.1, "gaussian-columns")


def begun(folder, options, given=()):
    """Write the settings of a sweep without trials, or be refused as one that joins it."""
    running._same_sweep(
        running._checked(request(folder, options, given), parsed(SEARCH), 4, "validation", True)
    )


@pytest.mark.parametrize(
    ("name", "of_file"),
    [("epochs", False), ("epochs", True), *((name, True) for name in guess.BY_VALUES)],
)
def test_an_option_that_is_given_is_not_one_that_the_data_choose(name, of_file, tmp_path):
    """Also if it is given as its default: the data may choose another value."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60, 4)))
    options = replace(TINY, epochs=Options().epochs)
    options = replace(options, dataset=str(tmp_path / "rows.npy")) if of_file else options
    for first, second in (((name,), ()), ((), (name,))):
        folder = tmp_path / "-".join(("s", *first))
        begun(folder, options, first)
        begun(folder, options, first)
        with pytest.raises(
            dv.InputError, match=rf"has {name} .*chosen from the data'.*; name another folder"
        ):
            begun(folder, options, second)


def test_own_data_that_have_changed_are_refused(tmp_path):
    """One value of the test rows, in a file or in a folder of images, is enough."""
    rows = np.random.default_rng(0).normal(size=(60, 4))
    path = tmp_path / "rows.npz"
    parts = {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}
    options = replace(TINY, dataset=str(path))
    np.savez(path, **parts)
    begun(tmp_path / "s", options)
    np.savez(path, **parts)
    begun(tmp_path / "s", options)
    moved = tmp_path / "moved" / "rows.npz"
    moved.parent.mkdir()
    np.savez(moved, **parts)
    begun(tmp_path / "s", replace(options, dataset=str(moved)))
    parts["test"][3, 2] += 0.01
    np.savez(path, **parts)
    with pytest.raises(dv.DataError, match=rf"data: {path} has changed since the sweep in {tmp_path / 's'}"):
        begun(tmp_path / "s", options)


class Interrupted(KeyboardInterrupt):
    pass


def test_a_stopped_sweep_resumes_and_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    swept(tmp_path / "whole", trials=2, pruning=False)
    real = trial.Pruning.epoch

    def stopping(pruning, run):
        real(pruning, run)
        if pruning._trial.number == 1 and run.epoch == 2:
            raise Interrupted

    monkeypatch.setattr(trial.Pruning, "epoch", stopping)
    with pytest.raises(Interrupted):
        swept(tmp_path / "cut", trials=2, pruning=False)
    states = [each.state for each in study_of(tmp_path / "cut").trials]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING]
    assert not with_test_results(tmp_path / "cut")
    monkeypatch.undo()
    swept(tmp_path / "cut", trials=2, pruning=False)
    assert values(tmp_path / "cut") == values(tmp_path / "whole")


def test_a_process_killed_between_two_options_of_a_trial_changes_nothing(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def options(folder):
        made = Sweep(folder, TINY, frozenset(), parsed(SEARCH), 4)
        folder.mkdir(exist_ok=True)
        with trial._claimed(made, made.study()) as claimed:
            return claimed.params

    def killed(dimension, of_trial):
        if dimension.name == "latent_size":
            raise Killed
        return suggested(dimension, of_trial)

    suggested = Dimension.suggested
    with monkeypatch.context() as patch:
        patch.setattr(Dimension, "suggested", killed)
        with pytest.raises(Killed):
            options(tmp_path / "killed")
    begun = study_of(tmp_path / "killed").get_trials()
    assert [list(each.params) for each in begun] == [["noise"]]
    assert options(tmp_path / "killed") == options(tmp_path / "whole")


def test_a_trial_that_falls_behind_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_PRUNED_FROM", 1)
    sweep(request(tmp_path / "s"), ["learning-rate=1e-3,1e-9,2e-3,3e-3"], trials=7, jobs=1)
    slow = [each for each in study_of(tmp_path / "s").trials if each.params["learning_rate"] == 1e-9]
    assert TrialState.PRUNED in [each.state for each in slow]
    for each in study_of(tmp_path / "s").get_trials(states=[TrialState.PRUNED]):
        assert len(each.intermediate_values) < 3
    for row in table_of(tmp_path / "s"):
        ended = row["state"] == "ended early"
        assert (row["objective"] == "") == ended
        assert row["validation_bound"] or not ended


def test_a_trial_that_is_stopped_when_it_falls_behind_is_no_finished_one(tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: True)
    real = trial.Pruning.checkpoint

    def stopping(pruning, run):
        if pruning.behind:  # the checkpoint is saved, and the study does not know yet
            raise Interrupted
        real(pruning, run)

    monkeypatch.setattr(trial.Pruning, "checkpoint", stopping)
    with pytest.raises(Interrupted):
        swept(tmp_path / "s", trials=1)
    assert [each.state for each in study_of(tmp_path / "s").trials] == [TrialState.RUNNING]
    monkeypatch.setattr(trial.Pruning, "checkpoint", real)
    swept(tmp_path / "s", trials=1)
    assert [each.state for each in study_of(tmp_path / "s").trials] == [TrialState.PRUNED]
    assert not with_test_results(tmp_path / "s")


def test_the_objective_may_be_importance_weighted(tmp_path, capsys):
    options = replace(TINY, importance_samples=50)
    asked = replace(request(tmp_path / "s", options), quiet=False)
    sweep(asked, ["bound=dvae,diwae"], trials=1, objective="iwae", jobs=1)
    assert "no trial ends early, because their validation bounds are not comparable (bound)" in (
        capsys.readouterr().err
    )
    study = study_of(tmp_path / "s")
    fitted = load(tmp_path / "s" / "trials" / "0000")
    best = fitted.history.best_validation_bound
    assert study.best_value > best
    made = Sweep(tmp_path / "s", options, frozenset(), parsed(["bound=dvae,diwae"]), 1, "iwae")
    assert isinstance(made.study().pruner, optuna.pruners.NopPruner)
    comparable = replace(made, space=parsed(["latent-size=2,3"]))
    assert isinstance(comparable.study().pruner, optuna.pruners.MedianPruner)
    run = trial.run_of(made, 0, options)
    rows = run.visit(run.validation)
    run.release()
    bound = dv.TraceDenoisingIWAE_ELBO(num_corruptions=1, num_particles=50, max_plate_nesting=1)
    again = evaluate_bound(fitted.model, fitted.guide, rows, loss=bound, seed=3)
    assert study.best_value == pytest.approx(again.mean, abs=0.1)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_trials_that_diverge_in_their_last_step(tmp_path):
    """The step before validation made weights whose outputs are not finite; the reasons are in the table."""
    options = replace(TINY, likelihood="gaussian-per-pixel", binarisation="none", epochs=1, batch_size=2000)
    made = request(tmp_path / "s", options)
    text = sweep(made, ("learning-rate=1e18:1e20:log",), trials=2, jobs=1)
    assert "2 trials: 2 failed" in text
    assert "the test data are not used: no trial finished; trials.csv has the reasons" in text
    rows = table_of(tmp_path / "s")
    assert all(row["state"] == "failed" and row["reason"].startswith("training diverged") for row in rows)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_trials_that_diverge_or_are_refused(tmp_path):
    rates = ["learning-rate=1e30,1e-3"]
    text = sweep(request(tmp_path / "a"), rates, trials=6, jobs=1)
    assert "failed" in text
    states = {each.params["learning_rate"]: each.state for each in study_of(tmp_path / "a").trials}
    assert states[1e30] == TrialState.FAIL
    gru = request(tmp_path / "b", replace(TINY, encoder="gru", hidden_layers=2))
    for number in range(2):  # if all trials are refused, they do not count
        message = (
            rf"all trials are refused; the last, trial {number} \(width [48]\): hidden_layers: expected 1"
        )
        with pytest.raises(dv.InputError, match=message):
            sweep(gru, ["width=4,8"], trials=1, jobs=1)
    assert [row["reason"][:13] for row in table_of(tmp_path / "b")] == ["hidden_layers"] * 2


def test_a_sweep_goes_on_after_refused_trials(tmp_path):
    folder = tmp_path / "s"
    search = ["encoder=gru,mlp", "hidden-layers=1,2"]
    text = sweep(request(folder, replace(TINY, epochs=1)), search, trials=10, jobs=1)
    trials = study_of(folder).trials
    assert len(trials) == 10
    refused = [each for each in trials if each.params == {"encoder": "gru", "hidden_layers": 2}]
    assert refused
    assert all(each.state == TrialState.FAIL for each in refused)
    assert {each.state for each in trials if each not in refused} == {TrialState.COMPLETE}
    assert f"{len(refused)} failed" in text
    for row in table_of(folder):
        assert ("recurrent layer of a gru" in row["reason"]) == (row["state"] == "failed")


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_of_a_trial_that_has_begun_ends_the_sweep(begun, tmp_path, monkeypatch):
    real = trial.trainer_of

    def trainer_of(run, callbacks=()):
        if not begun:
            raise dv.InputError("no space left")
        return real(run, callbacks)

    def full(pruning, run):
        raise dv.InputError("no space left")

    monkeypatch.setattr(trial, "trainer_of", trainer_of)
    monkeypatch.setattr(trial.Pruning, "epoch", full)
    with pytest.raises(
        dv.InputError, match=r"^trial 0" if begun else "all trials are refused; the last, trial 4"
    ):
        swept(tmp_path / "s", trials=9)
    assert len(study_of(tmp_path / "s").trials) == (1 if begun else 5)
    if begun:  # the same command continues the trial
        monkeypatch.undo()
        swept(tmp_path / "s", trials=1)
        assert [each.state for each in study_of(tmp_path / "s").trials] == [TrialState.COMPLETE]


def test_bad_input_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["--search", "noise=0:0.3"], "--output"),
        (["--output", "s"], "nothing to search"),
        (["--output", "s", "--search", "nois=0:1"], "did you mean 'noise'"),
        (["--output", "s", "--search", "noise=0:2"], "noise: expected"),
        (["--output", "s", "--search", "hidden-layers=1:8"], "hidden_layers: expected"),
        (["--output", "s", "--search", "noise-end=0:0.1"], "noise_end: it has no effect without"),
        (["--output", "s", "--search", "noise=0:0.3", "--noise-end", "0.1"], "noise_end: it has no effect"),
        (["--output", "s", "--search", "bound=dvae,diwae"], "use --objective iwae"),
        (["--output", "s", "--search", "particles=1,5", "--bound", "diwae"], "use --objective iwae"),
        (["--output", "s", "--search", "noise=0:0.3", "--noise", "0.1"], "also given as an option"),
        (["--output", "s", "--search", "noise=0:0.3", "--executor", "dsak"], "--executor"),
        (["--output", "s", "--search", "noise=0:0.3", "--executor-option", "a=1"], "submitit and dask"),
        (["--output", "s", "--search", "noise=0:0.3", "--no-such"], "No such option"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["sweep", *arguments, "--dataset", "digits", "--quiet"])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_an_option_has_an_effect_with_a_searched_one():
    names, given = {"noise_end"}, replace(TINY, noise_end=0.1)
    require_effect(given, names, {"noise_schedule": ("constant", "linear")})
    for searched in ({}, {"noise_schedule": ("constant",)}):
        with pytest.raises(dv.InputError, match="noise_end: it has no effect without --noise-schedule"):
            require_effect(given, names, searched)
    require_effect(given, set())


def command(*arguments):
    return [sys.executable, "-c", "from pyro_dvae.cli import main; main()", *COMMAND, *arguments]


@pytest.mark.slow
def test_a_second_process_joins_by_the_same_command(tmp_path):
    arguments = command("--output", "s", "--trials", "8", "--jobs", "1")
    pair = [subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [each.communicate(timeout=300) for each in pair]
    assert [each.returncode for each in pair] == [0, 0], ends
    study = study_of(tmp_path / "s")
    assert len(study.trials) == 8
    assert len({each.params["noise"] for each in study.trials}) == 8
    assert len(with_test_results(tmp_path / "s")) == 1
    done = [each[1].count(": trial ") for each in ends]
    assert sum(done) == 8
    assert min(done) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "options"), [("local", {}), ("submitit", {"cluster": "local"}), ("dask", {})]
)
def test_sweeps_run_on_executors(executor, options, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(running.__file__).parents[3]) + os.pathsep)
    swept(tmp_path / "s", jobs=2, executor=executor, executor_options=options)
    study = study_of(tmp_path / "s")
    assert len(study.trials) == 4
    assert not [each for each in study.trials if each.state == TrialState.RUNNING]
    assert len(with_test_results(tmp_path / "s")) == 1
