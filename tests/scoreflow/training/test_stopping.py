"""The first signal is a wish, the second an end; whoever had the signals gets them back."""

import signal
import threading

import pytest

from scoreflow.training import stopping
from scoreflow.training.stopping import Stop


@pytest.fixture
def before():
    """What the process does at SIGTERM: remembers it."""
    came, kept = [], signal.getsignal(signal.SIGTERM)
    handler = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    assert handler is kept
    yield came
    signal.signal(signal.SIGTERM, kept)


def test_the_first_is_a_wish_and_the_second_goes_to_whoever_had_it(before, monkeypatch):
    clock = iter([0.0, 0.1, 5.0])
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(clock))
    had = signal.getsignal(signal.SIGTERM)
    with Stop().listening() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert stop.signal == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)  # a tenth of a second later: the same wish
        assert before == []
        signal.raise_signal(signal.SIGTERM)
        assert before == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is had


def test_ctrl_c_twice_is_an_interrupt(monkeypatch):
    clock = iter([0.0, 5.0])
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(clock))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Stop().listening():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Stop().listening() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert not stop()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nothing_is_taken_outside_the_main_thread():
    had, seen = signal.getsignal(signal.SIGINT), []

    def listen():
        with Stop().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [had]
