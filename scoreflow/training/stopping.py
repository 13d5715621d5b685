"""Signals that end a training: the first waits for the end of the step, the second does not."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
ONE_WISH = 0.5
"""Seconds within which several signals are one: Ctrl-C under torchrun arrives from the terminal
and from torchrun as well."""


class Stop:
    """Whether the user, or a scheduler, wants the training to end.

    Attributes:
        signal: the first that came, None as long as there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Take the signals, and give them back to whoever had them.

        Outside the main thread, where Python delivers none, and for a signal that is ignored
        (`nohup`, a job in the background), nothing is taken.
        """
        if threading.current_thread() is threading.main_thread():
            had = {int(number): signal.getsignal(number) for number in SIGNALS}
            taken = {k: v for k, v in had.items() if v not in (None, signal.SIG_IGN)}
            self._before.update(taken)
        else:
            taken = {}
        try:
            for number in taken:
                signal.signal(number, self._wish)
            yield self
        finally:
            for number, handler in taken.items():
                signal.signal(number, handler)

    def _wish(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = number, now
        elif now - self._since > ONE_WISH:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
