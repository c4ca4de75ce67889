"""HTML from Python: elements whose texts are escaped, scrolling tables, and embedded pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from pyro_dvae.text import visible


class Html(str):
    """Text that is markup already."""


Content = str | Html | None


def escaped(text: object) -> Html:
    """Return text as markup; control characters and lone surrogates are written as escapes."""
    if isinstance(text, Html):
        return text
    plain = visible(str(text)).encode("utf-8", "backslashreplace").decode()
    return Html(html.escape(plain))


def joined(parts: Iterable[Content]) -> Html:
    """Return the parts one after the other, without those that are None."""
    return Html("".join(escaped(part) for part in parts if part is not None))


def element(tag: str, *children: Content, **attributes: object) -> Html:
    """Return an element; attributes that are None are left out, ``class_`` is ``class``."""
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
    """Return a table that scrolls sideways where it is too wide; the first cell of a row is its header.

    :param marked: rows to highlight.
    :param hidden_caption: whether only screen readers are told the caption.
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
