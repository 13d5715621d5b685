"""Signals that end a command: SIGTERM and SIGHUP become an exception, as Ctrl-C is one.

Batch systems send SIGTERM before they take the machine, a terminal that is closed sends SIGHUP.
Python answers signals between two operations of the main thread. Where that is inside a long one
(a solve, a wait for another process), a second thread ends the process after a few seconds.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
PATIENCE = 5.0
"""Seconds within which the main thread has to answer."""


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


@contextmanager
def as_interrupts(last_words: Callable[[Terminated], None]) -> Iterator[None]:
    """Raise `Terminated` at a signal, once; a second one does what it did before.

    Outside the main thread, and for a signal that is ignored (`nohup`), nothing changes.

    Args:
        last_words: called where the main thread does not answer, before the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {k: v for k, v in before.items() if v not in (None, signal.SIG_IGN)}

    fired = threading.Event()

    def handler(number: int, _frame: FrameType | None) -> None:
        fired.set()
        for each, had in taken.items():
            signal.signal(each, had)
        raise Terminated(number)

    with _watched(handler, fired, last_words):
        try:
            for number in taken:
                signal.signal(number, handler)
            yield
        finally:
            for number, had in taken.items():
                signal.signal(number, had)


@contextmanager
def _watched(
    handler: Any,  # noqa: ANN401
    fired: threading.Event,
    last_words: Callable[[Terminated], None],
) -> Iterator[None]:
    """Have a thread hear of signals at once, which ends the process if the exception does not.

    It may come late, inside a long operation, and is lost where Python forgives all exceptions:
    in the callbacks of its garbage collection.
    """
    if os.name == "nt" or not SIGNALS:  # where the system tells only sockets
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    over = threading.Event()

    def watch() -> None:
        while (heard := os.read(reader, 1)) and not over.is_set():
            number = heard[0]
            ours = signal.getsignal(number) is handler or fired.is_set()
            if number not in SIGNALS or not ours:
                continue  # a training listens itself, and ends with its step
            if not over.wait(PATIENCE):
                end = Terminated(number)
                last_words(end)
                os._exit(end.status)

    thread = threading.Thread(target=watch, daemon=True)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)
