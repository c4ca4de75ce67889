"""The one way to a terminal or a pipe: any text, whatever its characters and the stream's encoding."""

from __future__ import annotations

import sys
import unicodedata
from contextlib import suppress
from typing import TextIO

_PLAIN = str.maketrans({"±": "+/-", "·": "*", "→": "->"})


def visible(text: str) -> str:
    """Return ``text`` with control characters, which names in foreign files may hold, written as escapes."""
    return "".join(
        each if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cf") else ascii(each)[1:-1]
        for each in text
    )


def show(text: str, stream: TextIO | None = None) -> None:
    """Print ``text`` to ``stream``, by default standard output.

    What the encoding lacks is written in plain letters or as an escape. A standard error that is gone loses
    the text and nothing else.
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


def to_stderr(text: str) -> None:
    """Say something where it does not mix with a program's output."""
    show(text, sys.stderr)
