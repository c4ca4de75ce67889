"""HTML from Python: escaped elements, scrolling tables, embedded pictures, and the style sheet."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from pyro_dvae.text import visible


class Html(str):
    """Text that is already markup."""


Content = str | Html | None


def escaped(text: object) -> Html:
    """Return text as markup, with escapes for control characters and lone surrogates."""
    if isinstance(text, Html):
        return text
    plain = visible(str(text)).encode("utf-8", "backslashreplace").decode()
    return Html(html.escape(plain))


def joined(parts: Iterable[Content]) -> Html:
    """Concatenate the parts that are not None."""
    return Html("".join(escaped(part) for part in parts if part is not None))


def element(tag: str, *children: Content, **attributes: object) -> Html:
    """Return an element without attributes that are None; ``class_`` becomes ``class``."""
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag == "img":
        return Html(f"<img{shown}>")
    return Html(f"<{tag}{shown}>{joined(children)}</{tag}>")


def table(
    caption: str,
    header: Sequence[Content] | None,
    rows: Iterable[Sequence[Content]],
    *,
    marked: Sequence[bool] | None = None,
    hidden_caption: bool = False,
) -> Html:
    """Return a table that scrolls sideways if it is too wide; the first cell of a row is its header.

    :param marked: rows to highlight.
    :param hidden_caption: whether only screen readers get the caption.
    """
    body = []
    for number, (first, *rest) in enumerate(rows):
        cells = [element("th", first, scope="row"), *(element("td", each) for each in rest)]
        body.append(element("tr", *cells, class_="marked" if marked and marked[number] else None))
    head = None
    if header is not None:
        head = element("thead", element("tr", *(element("th", each, scope="col") for each in header)))
    whole = element(
        "table",
        element("caption", caption, class_="hidden" if hidden_caption else None),
        head,
        element("tbody", *body),
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def picture(png: bytes, caption: str, alt: str) -> Html:
    """Return an embedded PNG with its caption."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = element("img", src=source, alt=alt)
    return element("figure", image, element("figcaption", caption))


STYLE = """
:root {
  color-scheme: light dark;
  --page: #fff; --ink: #1c1e21; --soft: #5b6169; --line: #d9dce0; --panel: #f5f6f8; --mark: #fff3c4;
  --good: #0b6b3a; --bad: #b3261e;
  --c0: #0072b2; --c1: #d55e00; --c2: #00795a; --c3: #a8488b; --c4: #7a5c00; --c5: #3d3d3d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181c; --ink: #e8eaed; --soft: #a5abb3; --line: #3a3f46; --panel: #20242a; --mark: #4a3f12;
    --good: #6fd39b; --bad: #ff8a80;
    --c0: #56b4e9; --c1: #ff9a4d; --c2: #3ddbab; --c3: #e7a3d0; --c4: #f0d64a; --c5: #cfcfcf;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .6rem; padding-top: .8rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.08rem; margin: 1.8rem 0 .5rem; }
p, ul { max-width: 44rem; }
a { color: var(--c0); }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.note { border-left: 4px solid var(--c1); background: var(--panel); padding: .6rem .9rem; margin: 1rem 0; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(10.2rem, 1fr)); gap: .7rem; padding: 0;
  max-width: none;
}
.tiles li { list-style: none; background: var(--panel); border-radius: .5rem; padding: .7rem .9rem; }
.tiles b { display: block; font-size: 1.3rem; } .tiles small { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
.scroll:focus-visible { outline: 2px solid var(--c0); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
caption { text-align: left; padding: 0 0 .4rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem .5rem; }
tr { border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 600; min-width: 7rem; max-width: 14rem; }
td { min-width: 4.5rem; max-width: 34rem; }
td:last-child { min-width: 8rem; }
.several tbody th, .several thead th:first-child { position: sticky; left: 0; background: var(--page); }
.several th:first-child { max-width: 9.5rem; }
tr.marked, .several tr.marked th { background: var(--mark); }
.sub { font-weight: 400; padding-left: 1rem; display: inline-block; }
.good { color: var(--good); font-weight: 600; white-space: nowrap; }
.bad-word { color: var(--bad); font-weight: 600; white-space: nowrap; }
pre {
  background: var(--panel); padding: .7rem .9rem; border-radius: .5rem; font-size: .88rem;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .92em; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.2rem; }
.chart { max-width: 34rem; }
.chart svg:not(.key) { width: 100%; height: auto; display: block; }
svg text { font-size: 11px; fill: var(--soft); font-family: inherit; }
svg .grid { stroke: var(--line); stroke-width: .7; }
svg .limit { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 5 3; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .bar { fill: var(--c0); } svg .bar.bad { fill: var(--c1); }
.legend {
  list-style: none; padding: 0; margin: .3rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem;
  font-size: .88rem; color: var(--soft);
}
.legend .key { width: 1.8rem; height: .6rem; margin-right: .4rem; vertical-align: middle; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); }
.dot.c3 { fill: var(--c3); } .dot.c4 { fill: var(--c4); } .dot.c5 { fill: var(--c5); }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: .4rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.pictures { gap: 1.5rem; align-items: start; }
details { margin: .8rem 0; } summary { cursor: pointer; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.note code { display: block; margin-top: .3rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .stacked thead { position: absolute; clip-path: inset(50%); }
  .stacked table, .stacked tbody, .stacked tr, .stacked th, .stacked td { display: block; max-width: none; }
  .stacked tr { padding: .4rem 0; }
  .stacked tbody th, .stacked td { padding: .1rem 0; }
}
@media (max-width: 30rem) { body { padding: 1rem .8rem 3rem; } h1 { font-size: 1.4rem; } }
@media print { .scroll { overflow: visible; } h2 { break-before: page; } }
"""
