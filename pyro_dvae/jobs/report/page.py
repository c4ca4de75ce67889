"""The page: an overview of several runs, then a section for each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro_dvae
from pyro_dvae.jobs.report.charts import Curve, curves, histogram
from pyro_dvae.jobs.report.content import ReportedRun, figures, two_digits
from pyro_dvae.jobs.report.markup import STYLE, Content, Html, element, joined, picture, table
from pyro_dvae.using import Diagnosis

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_HARDEST = 10
_UNITS = "Bounds and log p(x) are in nats per row; higher is better."
_DRAWN_ANEW = {"learning_curves", "log_likelihood_histogram", "pareto_k"}
# Caption of a picture, and its alternative text.
_PICTURES = {
    "prior_samples": (
        "Images decoded from prior draws of the latents",
        "A grid of images, each the pixel means of one draw of the latents from the prior",
    ),
    "reconstructions": (
        "Test images: clean, corrupted, and reconstructed from the corrupted ones",
        "Three rows of test images: clean, with noise, and reconstructed",
    ),
    "manifold": (
        "Images over the two-dimensional latent space",
        "A grid of images decoded at evenly spread codes; neighbours look alike",
    ),
    "column_errors": (
        "Error of the reconstruction, column by column",
        "A bar for each column of the table: the error of its reconstruction",
    ),
    "codes": ("Codes of the test rows", "Points in the plane, one for the code of each test row"),
    "convergence": (
        "Estimate of log p(x) against the number of samples: it should be flat at the end",
        "A curve that rises with the number of importance samples towards log p(x)",
    ),
    "hardest_and_easiest": (
        "Test images with the lowest and the highest log p(x)",
        "Two blocks of test images: the least likely ones and the most likely ones under the model",
    ),
    "kl_per_dimension": (
        "KL of each latent unit to its prior: units near 0 carry nothing",
        "A bar for each latent unit, sorted: the nats that it carries",
    ),
}
_OF_TABLE = (
    "Test rows: observed against reconstructed values, a panel for each column",
    "Scatter plots of observed against reconstructed values, one for each column of the table",
)


def page(runs: Sequence[ReportedRun]) -> str:
    """Return the whole document."""
    names = labels(runs)
    title = f"Report: {names[0]}" if len(runs) == 1 else f"Report of {len(runs)} runs"
    parts: list[Content] = [
        element("h1", title),
        element("p", f"Written by pyro_dvae {pyro_dvae.__version__}. {_UNITS}", class_="soft"),
    ]
    if len(runs) > 1:
        parts.append(_side_by_side(runs, names))
    parts += [_section(run, name, number) for number, (run, name) in enumerate(zip(runs, names, strict=True))]
    head = [
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("title", title),
        element("style", Html(STYLE)),
    ]
    document = element("html", element("head", *head), element("body", element("main", *parts)), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def labels(runs: Sequence[ReportedRun]) -> list[str]:
    """Return the names of the folders, or their paths if names are not unique."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _side_by_side(runs: Sequence[ReportedRun], names: Sequence[str]) -> Html:
    links = [element("a", name, href=f"#run-{number}") for number, name in enumerate(names, 1)]
    known = [{label: value for label, value, _ in figures(run)} for run in runs]
    shown = list(dict.fromkeys(label for each in known for label in each))
    of_options = list(dict.fromkeys(name for run in runs for name in run.options))
    texts = {name: [_option(run.options, name) for run in runs] for name in of_options}
    different = [name for name in of_options if len(set(texts[name])) > 1]
    rows: list[Sequence[Content]] = [["data", *(run.data.get("name", "-") for run in runs)]]
    rows.append(["epochs trained", *(str(len(run.history.epochs)) if run.history else "0" for run in runs)])
    rows += [[label, *(each.get(label, "-") for each in known)] for label in shown]
    marked = [False] * len(rows) + [True] * len(different)
    rows += [[_readable(name), *texts[name]] for name in different]
    same = [[_readable(name), texts[name][0]] for name in of_options if name not in different]
    caption = "Highlighted: options that differ"
    validation = [
        Curve(name, run.history.epochs, run.history.validation_bound, number, number // 6)
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
        if run.history is not None
    ]
    return element(
        "section",
        element("h2", "Side by side"),
        *(_note(text) for text in _incomparable(runs)),
        element("div", table(caption, ["", *links], rows, marked=marked), class_="several"),
        None if different or not of_options else element("p", "All options are the same."),
        _details("Options that all runs share", table("Options of all runs", None, same)) if same else None,
        element("h3", "Validation bound"),
        curves(f"Validation bound over the epochs of {len(runs)} runs", validation),
    )


def _incomparable(runs: Sequence[ReportedRun]) -> Iterator[str]:
    """Return why the nats of the runs cannot be compared, or None."""

    def binary(run: ReportedRun) -> object:  # static or dynamic, the test rows are the same
        return {"dynamic": "static"}.get(run.options.get("binarisation", ""), run.options.get("binarisation"))

    seen = {
        "data": {run.data.get("name") for run in runs},
        "likelihood": {run.options.get("likelihood") for run in runs},
        "scale": {run.options.get("scale") for run in runs},
        "binarisation": {binary(run) for run in runs},
    }
    if different := [name for name, values in seen.items() if len(values) > 1]:
        yield f"The runs differ in {', '.join(different)}, so their bounds and log p(x) are not comparable."


def _option(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    return {"None": "-", "True": "yes", "False": "no"}.get(str(value), str(value))


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _details(summary: str, content: Html) -> Html:
    return element("details", element("summary", summary), content)


def _section(run: ReportedRun, name: str, number: int) -> Html:
    found = figures(run)
    tiles = [element("li", label, *_large(value)) for label, value, _ in found]
    facts = [(label, text) for label, text in run.facts if label != "result"]
    parts: list[Content] = [
        element("h2", name),
        *(_note(*each) for each in run.notes),
        element("ul", *tiles, class_="tiles") if tiles else None,
        table("What was trained, on what, how far", None, facts),
    ]
    if found:
        parts += [
            element("h3", "Results, and how far to trust them"),
            _stacked("Main results", ["measure", "value", "how far to trust it"], found),
        ]
    if run.evaluation is not None:
        parts += [_note(text) for label, text in run.rows if "advice" in label]
        full = [(_label(label), text) for label, text in run.rows]
        parts.append(_details("All results of the evaluation", table("Evaluation", None, full)))
    parts += [_diagnosis(run.diagnosis), _training(run, name)]
    parts += [_by_row(run), _pictures(run)]
    parts.append(element("h3", "To repeat it" if run.options else "To load it"))
    parts += [element("pre", element("code", command)) for command in run.commands]
    if run.options:
        every = [(_readable(option), _option(run.options, option)) for option in run.options]
        parts.append(_details("All options", table("Options of the training", None, every)))
    return element("section", *parts, id=f"run-{number + 1}")


def _stacked(caption: str, header: Sequence[Content], rows: Sequence[Sequence[Content]]) -> Html:
    """Return a table whose cells are stacked on a phone."""
    return element("div", table(caption, header, rows, hidden_caption=True), class_="stacked")


def _note(text: str, command: str | None = None) -> Html:
    return element("p", text, element("code", command) if command else None, class_="note")


def _large(value: str) -> list[Html]:
    number, _, error = value.partition(" ± ")
    return [element("b", number), *([element("small", f"± {error}")] if error else [])]


def _label(label: str) -> Html:
    return element("span", label.strip(), class_="sub" if label.startswith("  ") else None)


def _diagnosis(found: Diagnosis | str | None) -> Html | None:
    if found is None:
        return None
    heading = element("h3", "Is this fit good enough?")
    if isinstance(found, str):
        return joined([heading, _note(f"There is no diagnosis: {found}")])
    words = {True: "good", False: "bad-word", None: None}
    rows = [
        [each.name, each.text, element("span", each.verdict, class_=words[each.good]), each.remedy]
        for each in found.findings
    ]
    left_out = [element("li", f"{name}: {why}") for name, why in found.left_out.items()]
    return joined(
        [
            heading,
            element("p", found.summary),
            _stacked("Diagnosis", ["figure", "value", "verdict", "remedy"], rows),
            element("p", "Left out:") if left_out else None,
            element("ul", *left_out) if left_out else None,
        ]
    )


def _training(run: ReportedRun, name: str) -> Html | None:
    if run.history is None:
        return None
    history = run.history
    best = []
    if history.best_epoch is not None and history.best_validation_bound is not None:
        best.append((float(history.best_epoch), history.best_validation_bound, 1))
    noisy = bool(run.options.get("noise"))
    lines = [
        Curve("training, with noise" if noisy else "training", history.epochs, history.train_bound),
        Curve("validation, clean" if noisy else "validation", history.epochs, history.validation_bound, 1, 1),
    ]
    return joined(
        [
            element("h3", "Training"),
            curves(f"Training and validation bound of {name} over {len(history.epochs)} epochs", lines, best),
        ]
    )


def _by_row(run: ReportedRun) -> Html | None:
    if run.evaluation is None:
        return None
    estimate = run.evaluation["log_likelihood"]
    each, limit = estimate["per_datum"], estimate["pareto_k_threshold"]
    values = each["log_likelihood"]
    number = len(values)
    hardest = sorted((n for n in range(number) if values[n] is not None), key=lambda n: values[n])[:_HARDEST]
    rows = [
        [str(n), *(two_digits(each[key][n]) for key in ("log_likelihood", "standard_error", "pareto_k"))]
        for n in hardest
    ]
    header = ["test row", "log p(x)", "± sampling", "Pareto k"]
    shares = (
        f"log p(x) of {number:,} test rows",
        f"Pareto k of {number:,} test rows; bad above the dashes",
    )
    return joined(
        [
            element("h3", "Row by row"),
            element(
                "div",
                _captioned(histogram(shares[0], values, "log p(x) (nats)"), shares[0]),
                _captioned(histogram(shares[1], each["pareto_k"], "Pareto k", limit), shares[1]),
                class_="side",
            ),
            table(f"The {len(rows)} least likely test rows, counted from 0", header, rows),
        ]
    )


def _captioned(chart: Html, caption: str) -> Html:
    return element("figure", chart, element("figcaption", caption))


def _pictures(run: ReportedRun) -> Html | None:
    of_table = bool(run.data) and run.data.get("image_shape") is None
    shown = [_one(path, of_table) for path in run.pictures if path.stem not in _DRAWN_ANEW]
    if not shown:
        return None
    return joined([element("h3", "Pictures"), element("div", *shown, class_="pictures")])


def _one(path: Path, of_table: bool) -> Html | None:
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        return None
    named = _readable(path.stem)
    caption, alt = _PICTURES.get(path.stem, (named, f"Picture {named}"))
    if of_table and path.stem == "reconstructions":
        caption, alt = _OF_TABLE
    return picture(content, caption, alt)
