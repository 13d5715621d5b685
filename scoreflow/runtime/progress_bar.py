"""Progress bar that also counts evaluations, so that it moves inside a long solve."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from scoreflow.errors import printable
from scoreflow.runtime import distributed

REFRESH_SECONDS = 0.5 if sys.stderr.isatty() else 10.0


class Progress:
    """A tqdm bar over `total` units, with notes.

    Args:
        title: what is being done.
        total: units in all.
        unit: their name.
        start: units done before.
    """

    def __init__(self, title: str, total: int, unit: str, start: int = 0) -> None:
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=printable(title),
            unit=unit,
            mininterval=REFRESH_SECONDS,
            dynamic_ncols=True,
            smoothing=0.1,
            disable=not distributed.is_main_process(),
        )
        self._calls = 0
        self._last = time.monotonic()

    def advance(self, units: int, **notes: str) -> None:
        """Some units are done."""
        self.bar.set_postfix(notes, refresh=False)
        self.bar.update(units)

    def evaluated(self) -> None:
        """The denoiser was called once more: a sign of life inside a long solve."""
        self._calls += 1
        if time.monotonic() - self._last > REFRESH_SECONDS:
            self._last = time.monotonic()
            self.bar.set_postfix(evaluations=self._calls)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.close()
