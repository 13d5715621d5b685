"""Numbers in a range code: they come back, from a beginning too, at the price of their law."""

import math

import numpy as np
import pytest

from scoreflow.likelihood.compression.progressive.index_code import (
    MAGNITUDES,
    STEPS,
    Frequencies,
    Reader,
    Writer,
    told_as,
    told_bits,
)

RNG = np.random.default_rng(0)
INDICES = [int(each) for each in RNG.geometric(1 / 40, 500) - 1] + [0, 1, 2**25 - 2]


def written(indices, code):
    writer, law = Writer(), Frequencies.of_indices(code)
    for each in indices:
        writer.put_index(each, law)
        writer.put_even(each & 7, 3)
    return writer


def read(words, count, code):
    reader, law = Reader(words), Frequencies.of_indices(code)
    return [(reader.get_index(law), reader.get_even(3)) for _ in range(count)]


@pytest.mark.parametrize("code", [0, 8, STEPS])
def test_numbers_come_back(code):
    writer = written(INDICES, code)
    assert read(writer.words(), len(INDICES), code) == [(each, each & 7) for each in INDICES]


def test_the_beginning_of_a_code_has_the_first_numbers():
    short = written(INDICES[:100], 8)
    words = written(INDICES, 8).words()[: short.bits // 32 + 1]
    assert read(words, 100, 8) == [(each, each & 7) for each in INDICES[:100]]


def test_the_law_of_an_index_is_that_of_its_bits():
    for code in range(STEPS + 1):
        counts = Frequencies.of_indices(code).counts
        assert len(counts) == MAGNITUDES
        assert (counts > 0).all()
        octave = float((counts / counts.sum() * np.arange(MAGNITUDES)).sum())
        # E log2(index) is about D at most, and a magnitude its floor
        assert abs(octave + 0.5 - told_bits(code)) < 2
    assert [told_as(told_bits(code)) for code in range(STEPS + 1)] == list(range(STEPS + 1))
    assert told_as(1e9) == STEPS


def test_a_law_that_fits_is_cheaper_than_one_that_does_not_and_both_learn():
    few = INDICES[:60]
    fits, misses = (written(few, told_as(bits)).bits for bits in (math.log2(40), 15.0))
    assert fits < misses < fits + 8 * len(few)


def test_counts_around_a_typical_one():
    law = Frequencies.around(3, 20)
    assert int(law.counts.argmax()) == 3
    assert (law.counts > 0).all()
    law.saw(5)
    law.saw(5)
    law.saw(5)
    law.saw(5)
    assert int(law.counts.argmax()) == 5
