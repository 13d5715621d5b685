"""TF32 through both of torch's switches: what is told inside, and what is left behind."""

import contextlib

import pytest
import torch

from scoreflow.runtime.gpu.tf32 import switch_convolutions, switch_tf32, tf32

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
NEWER = hasattr(CUDNN, "conv")


def seen():
    """Both switches as anyone reads them; "raises" where torch refuses to tell."""
    found = []
    for backend in (MATMUL, CUDNN):
        try:
            found.append(backend.allow_tf32)
        except RuntimeError:
            found.append("raises")
    if NEWER:
        found += [part.fp32_precision for part in (MATMUL, CUDNN.conv, CUDNN.rnn, CUDNN)]
        found.append(torch.backends.fp32_precision)
    return found


@contextlib.contextmanager
def kept():
    """The switches as torch has them at the start, whatever was done before, and again after."""

    def reset():
        torch.backends.fp32_precision = CUDNN.fp32_precision = "none"
        MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True
        MATMUL.fp32_precision = "none"
        torch.backends.mkldnn.matmul.fp32_precision = "none"

    if not NEWER:
        pytest.skip("torch < 2.9 has the older switch alone")
    before = seen()
    reset()
    try:
        yield
    finally:
        reset()
        MATMUL.allow_tf32, CUDNN.allow_tf32 = before[0] is True, before[1] is True
        for part, value in zip((MATMUL, CUDNN.conv, CUDNN.rnn), before[2:], strict=False):
            part.fp32_precision = value


def newer(place, value):
    def change():
        place.fp32_precision = value

    return change


def older(place, value):
    def change():
        place.allow_tf32 = value

    return change


SETTINGS = {
    "untouched": (),
    "matmul older": (older(MATMUL, True),),
    "convolutions older": (older(CUDNN, False),),
    "matmul newer on": (newer(MATMUL, "tf32"),),
    "matmul newer off": (newer(MATMUL, "ieee"),),
    "convolutions newer": (newer(CUDNN.conv, "ieee"),) if NEWER else (),
    "all convolutions newer": (newer(CUDNN.conv, "ieee"), newer(CUDNN.rnn, "ieee"))
    if NEWER
    else (),
    "a backend": (newer(CUDNN, "ieee"),),
    "everything on": (newer(torch.backends, "tf32"),),
    "everything off": (newer(torch.backends, "ieee"),),
    "older, then newer": (older(MATMUL, True), newer(MATMUL, "ieee")),
}


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("setting", SETTINGS)
def test_both_switches_say_the_same_inside_and_are_as_before_outside(setting, on):
    with kept():
        for change in SETTINGS[setting]:
            change()
        before = seen()
        with tf32(on):
            word = "tf32" if on else "ieee"
            assert seen()[:5] == [on, on, word, word, word]
            with tf32(not on):
                assert seen()[:2] == [not on, not on]
            assert seen()[:5] == [on, on, word, word, word]
        assert seen() == before


@pytest.mark.parametrize("on", [True, False])
def test_what_was_inherited_is_inherited_afterwards(on):
    """A program that sets everything later still means products of matrices too."""
    with kept():
        torch.backends.fp32_precision = "tf32"
        with tf32(on):
            pass
        torch.backends.fp32_precision = "ieee"
        assert MATMUL.fp32_precision == "ieee"


def test_off_is_off_under_a_general_setting_that_is_on():
    with kept():
        torch.backends.fp32_precision = "tf32"
        switch_convolutions(False)
        assert seen()[1:5] == [False, "tf32", "ieee", "ieee"]
        switch_tf32(False)
        assert seen()[:5] == [False, False, "ieee", "ieee", "ieee"]


def test_an_error_inside_leaves_the_setting_as_it_was():
    with kept():
        before = seen()
        with pytest.raises(ZeroDivisionError), tf32(True):
            _ = 1 / 0
        assert seen() == before
