"""Output to a terminal or a pipe: any text, for any encoding of the stream."""

from __future__ import annotations

import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import TextIO

_WIDTH = 100
_PLAIN = str.maketrans({"±": "+/-", "·": "*", "→": "->"})


def visible(text: str) -> str:
    """Return ``text`` with escapes for control characters, which names in foreign files may contain."""
    return "".join(
        each if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cf") else ascii(each)[1:-1]
        for each in text
    )


def show(text: str, stream: TextIO | None = None) -> None:
    """Print ``text`` to ``stream``, by default standard output.

    Characters outside the encoding become plain letters or escapes. If standard error is closed, only the
    text is lost.
    """
    target = sys.stdout if stream is None else stream
    if target is None:  # a program without a console
        return
    encoding = getattr(target, "encoding", None) or "utf-8"
    line = visible(text)
    try:
        line.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        plain = unicodedata.normalize("NFKC", line.translate(_PLAIN))
        line = plain.encode(encoding, "backslashreplace").decode(encoding)
    if target is sys.stderr:
        with suppress(OSError, ValueError):
            print(line, file=target, flush=True)
    else:
        print(line, file=target, flush=True)


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun: ``1 row``, ``1,200 rows``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def labelled(rows: Sequence[tuple[str, str]]) -> str:
    """Return lines of labels and texts, in at most 100 columns unless a word is longer."""
    width = max(len(label) for label, _ in rows) + 2
    lines = []
    for label, text in rows:
        parts = textwrap.wrap(text, max(20, _WIDTH - width), break_long_words=False, break_on_hyphens=False)
        pairs = zip_longest([label], parts or [""], fillvalue="")
        lines += [f"{name:<{width}}{part}".rstrip() for name, part in pairs]
    return "\n".join(lines)


def to_stderr(text: str) -> None:
    """Print ``text`` to standard error, so that it does not mix with a program's output."""
    show(text, sys.stderr)
