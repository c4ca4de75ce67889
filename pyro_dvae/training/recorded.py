"""The number of recordings of a run, which is limited, because compiling takes time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pyro_dvae.engine import Unrecordable
from pyro_dvae.engine.surroundings import Surroundings

_AT_MOST = 16
TOO_MANY = f"numbers, flags or shapes have changed {_AT_MOST} times"


class Recorded:
    """The recordings of a run, by fingerprints of the numbers and the batches that they are made for.

    They are in its checkpoint: a resumed run makes recordings again, and stops compiling at the same step.

    :param prints: the fingerprints of a resumed run.
    """

    def __init__(self, prints: Sequence[str] = ()) -> None:
        self.prints, self._again = list(prints), Counter(prints)

    @property
    def too_many(self) -> bool:
        return len(self.prints) > _AT_MOST

    def add(self, recorded: Surroundings, rows: int) -> None:
        """Add the values of a new recording for batches of ``rows`` rows.

        :raises Unrecordable: there are too many.
        """
        own = self._of(recorded, rows)
        if self._again[own]:
            self._again[own] -= 1
        else:
            self.prints.append(own)
        if self.too_many:
            raise Unrecordable(TOO_MANY)

    def forget(self, recorded: Surroundings, rows: int) -> None:
        """Do not count the next recording like this one, which has become invalid."""
        self._again[self._of(recorded, rows)] += 1

    def _of(self, recorded: Surroundings, rows: int) -> str:
        return f"{rows}/{recorded.fingerprint()}"
