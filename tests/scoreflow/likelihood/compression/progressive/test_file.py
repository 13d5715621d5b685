"""The file of progressive images: it comes back whole, and what was changed is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scoreflow.errors import RequestError
from scoreflow.likelihood.compression.error_law import ErrorLaw
from scoreflow.likelihood.compression.progressive.file import (
    MAGIC,
    ProgressiveFile,
    is_progressive,
    unpacked,
)

TIMES = (0, 300, 500, 1000)
SQUARES = torch.arange(48, dtype=torch.int16).view(2, 24) - 300
FILE = ProgressiveFile(
    run="runs/dïgits",
    weights=bytes(range(16)),
    step=2000,
    count=3,
    event=(1, 8, 8),
    num_levels=17,
    times=TIMES,
    law=ErrorLaw("estimate", TIMES[2:], SQUARES, SQUARES),
    seed=2**64 - 1,
    batch_size=64,
    part_bits=7.5,
    words=np.arange(9, dtype=np.uint32) * 0x1234567,
)


def test_a_file_comes_back():
    content = FILE.packed()
    found = unpacked(content, "a.sf")
    for name in (
        "run",
        "weights",
        "step",
        "count",
        "event",
        "num_levels",
        "times",
        "seed",
        "batch_size",
    ):
        assert getattr(found, name) == getattr(FILE, name), name
    assert found.part_bits == 7.5
    assert (found.law.kind, found.law.times) == ("estimate", (500, 1000))
    assert torch.equal(found.law.squares, SQUARES)
    assert (found.words == FILE.words).all()
    assert len(content) == found.header_bytes + 4 * len(FILE.words)
    assert is_progressive(content)


def test_names_come_back_and_take_bytes_where_there_are_some():
    named = replace(FILE, names=("ä", "b c", "00000007"), run="runs/\udcff")
    found = unpacked(named.packed(), "a.sf")
    assert (found.names, found.run) == (named.names, named.run)
    assert (found.law.kind, found.seed) == ("estimate", FILE.seed)
    assert torch.equal(found.law.squares, SQUARES)
    assert found.header_bytes == named.header_bytes > FILE.header_bytes
    assert unpacked(FILE.packed(), "a.sf").names == ()
    for bad in (("a", "b"), ("a", "a", "b"), ("a", "b", "../c")):
        with pytest.raises(RequestError, match="cannot be read"):
            unpacked(replace(FILE, names=bad).packed(), "a.sf")


def test_a_byte_that_was_changed_is_refused_in_a_line():
    content = FILE.packed()
    for place in range(len(content)):
        for flip in (1, 128):
            other = bytearray(content)
            other[place] ^= flip
            with pytest.raises(RequestError) as refused:
                unpacked(bytes(other), "a.sf")
            assert str(refused.value).count("\n") == 0
            assert "a.sf" in str(refused.value)


def test_a_file_that_was_cut_is_refused():
    content = FILE.packed()
    for length in range(len(content)):
        with pytest.raises(RequestError, match=r"a\.sf is"):
            unpacked(content[:length], "a.sf")


def test_a_newer_and_a_foreign_file_are_told_apart():
    with pytest.raises(RequestError, match="a newer version"):
        unpacked(b"SFP\2" + FILE.packed()[4:], "a.sf")
    with pytest.raises(RequestError, match="no file of progressive images"):
        unpacked(b"\x89PNG" + FILE.packed()[4:], "a.sf")
    assert not is_progressive(b"")
    assert MAGIC[:3] == b"SFP"


def test_a_header_cannot_ask_for_more_than_there_is():
    head = bytearray(MAGIC)
    head += bytes([0, 7, 1, 3]) + b"\xff\xff\xff\x7f" * 3  # one image of 2^28 in each direction
    with pytest.raises(RequestError, match="cannot be read"):
        unpacked(bytes(head) + bytes(200), "a.sf")
