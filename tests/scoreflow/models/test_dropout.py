"""Dropout as a function of (image, layer, unit): its law, and that nothing else enters."""

import pytest
import torch
from scipy import stats

from scoreflow.models.dropout import dropout, mixed
from scoreflow.sde.noise import Noise, Stream

UNITS = 2**18


def words(*values):
    return torch.tensor(values, dtype=torch.int64)


def random_words(count):
    return torch.randint(2**32, (count, 2), generator=torch.Generator().manual_seed(0))


def numbers_of(names, count):
    return mixed(names, torch.arange(count, dtype=torch.int32)[None])


def fold(x, places):
    return x ^ (x >> places)


def test_numbers_are_those_of_the_stated_mixing():
    """In integers of any size: what int32 wraps and shifts must come out the same."""
    asked = words([0, 0], [1, 2], [2**32 - 1, 2**31], [0xDEADBEEF, 0x12345678])
    for (first, second), row in zip(asked.tolist(), numbers_of(asked, 50).tolist(), strict=True):
        for unit, number in enumerate(row):
            x = fold((unit + first) % 2**32, 16) * 0x85EBCA6B % 2**32
            x = fold((x + second) % 2**32, 13) * 0xC2B2AE35 % 2**32
            assert number % 2**32 == fold(x, 16)


def test_each_bit_is_fair_and_neighbours_are_independent():
    """Of one image and layer; |z| < 5 for each of 32 bits and each of 8 x 32 pairs."""
    numbers = numbers_of(random_words(1), UNITS)[0].long() % 2**32
    bits = (numbers[:, None] >> torch.arange(32) & 1).double() * 2 - 1
    assert bits.mean(0).abs().max() * UNITS**0.5 < 5
    for lag in (1, 2, 3, 8, 32, 64, 1024, 4096):
        pairs = bits[lag:] * bits[:-lag]
        assert pairs.mean(0).abs().max() * len(pairs) ** 0.5 < 5


def test_numbers_are_uniform():
    numbers = numbers_of(random_words(1), UNITS)[0].double() / 2**32 + 0.5
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-4


def test_images_and_layers_drop_independently():
    """Of 2016 pairs: units are kept by both as often as by chance; the words are Philox's."""
    addressed = Noise.of(3, 0, 8).words(Stream.TRAIN_DROPOUT, (8, 2)).flatten(0, 1)
    kept = (numbers_of(addressed, 2**16) >= 2**31 // 4).double()
    correlations = torch.corrcoef(kept) - torch.eye(len(kept))
    assert correlations.abs().max() * 2**8 < 5


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.999])
def test_units_are_dropped_with_the_probability_and_the_others_scaled(probability):
    h = torch.ones(4, 16, 64, 64, dtype=torch.float64)
    dropped = dropout(h, random_words(4), probability)
    values = dropped.unique().tolist()
    assert values == pytest.approx([0.0, 1 / (1 - probability)][-len(values) :])
    count, expected = (dropped == 0).sum().item(), probability * h.numel()
    assert abs(count - expected) <= 5 * (expected * (1 - probability)) ** 0.5


def test_all_may_be_dropped():
    h = torch.randn(2, 3, 4)
    assert not dropout(h, random_words(2), 1.0).any()


def test_gradients_pass_where_units_do():
    h = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    answer = dropout(h, random_words(3), 0.3)
    answer.sum().backward()
    torch.testing.assert_close(h.grad * h, answer)


def test_memory_format_changes_nothing():
    h = torch.randn(2, 8, 4, 4)
    last = h.contiguous(memory_format=torch.channels_last)
    assert dropout(last, random_words(2), 0.5).equal(dropout(h, random_words(2), 0.5))
