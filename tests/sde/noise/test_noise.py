"""Philox against its published answers, and addressed noise against what it promises."""

import random

import pytest
import scipy.stats
import torch

from scoreflow.sde.noise import Noise, Stream, philox

DRAWS = 20_000


def words(counter: list[int], seed: int) -> list[int]:
    return philox(torch.tensor(counter), seed).tolist()


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_known_answers(counter, key, answer):
    """The vectors for philox4x32-10 in Random123's kat_vectors."""
    counter, key, answer = (
        [int(word, 16) for word in each.split()] for each in (counter, key, answer)
    )
    assert words(counter, key[0] | key[1] << 32) == answer


def philox_in_integers(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 as the paper's figure draws it, in Python's unbounded integers."""
    for _ in range(10):
        left, right = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (right >> 32) ^ counter[1] ^ key[0], right % 2**32,
            (left >> 32) ^ counter[3] ^ key[1], left % 2**32,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def test_philox_equals_unbounded_integers():
    rng = random.Random(0)
    counters = [[rng.getrandbits(32) for _ in range(4)] for _ in range(200)]
    for seed in (0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64)):
        batch = philox(torch.tensor(counters).T, seed).T.tolist()
        key = [seed % 2**32, seed >> 32]
        assert batch == [philox_in_integers(counter, key) for counter in counters]


def test_a_draw_is_the_word_at_its_address():
    noise = Noise(seed=2**40 + 7, index=torch.tensor([5, 2**32 - 1]), step=12)
    u = noise.uniform(Stream.PROBE, (6,), draw=3)
    for row, index in enumerate([5, 2**32 - 1]):
        blocks = [
            philox_in_integers([block, index, 12, Stream.PROBE | 3 << 8], [7, 2**8])
            for block in (0, 1)
        ]
        assert (u[row] * 2**32).tolist() == (blocks[0] + blocks[1])[:6]


def test_uniform_is_uniform():
    u = Noise.of(0, 0, 50).uniform(Stream.DATA, (DRAWS // 50,)).flatten()
    assert u.min() >= 0
    assert u.max() < 1
    assert scipy.stats.kstest(u.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("size", [1, 7, 400])  # pairs of Box-Muller, and one that is cut
def test_normal_is_normal(size):
    z = Noise.of(0, 0, DRAWS // size).normal(Stream.PRIOR, (size,)).flatten()
    assert scipy.stats.kstest(z.numpy(), "norm").pvalue > 0.01
    assert abs((z**4).mean() - 3) < 5 * (96 / len(z)) ** 0.5  # Var z^4 = 105 - 9


def test_the_two_normals_of_a_pair_are_independent():
    z = Noise.of(1, 0, DRAWS).normal(Stream.PRIOR, (2,))
    for power in (1, 2):
        assert abs(torch.corrcoef((z**power).T)[0, 1]) < 4 / DRAWS**0.5
    angle = torch.atan2(z[:, 1], z[:, 0]) / (2 * torch.pi) % 1
    assert scipy.stats.kstest(angle.numpy(), "uniform").pvalue > 0.01


def test_rademacher_is_a_fair_sign():
    z = Noise.of(0, 0, 50).rademacher(Stream.PROBE, (DRAWS // 50,))
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    assert abs(z.mean()) < 4 / DRAWS**0.5
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 4 / DRAWS**0.5


@pytest.mark.parametrize("kind", ["uniform", "normal", "rademacher"])
def test_every_part_of_the_address_matters(kind):
    def draw(seed=3, start=0, step=0, stream=Stream.PRIOR, number=0):
        noise = Noise.of(seed, start, start + 100).at(step)
        return getattr(noise, kind)(stream, (DRAWS // 100,), number).flatten()

    different = [
        draw(),
        draw(seed=4),
        draw(seed=3 + 2**32),  # the key's upper word
        draw(start=100),
        draw(step=1),
        draw(step=256),  # would be a draw's or a stream's bit if words were mixed up
        draw(stream=Stream.PREDICTOR),
        draw(number=1),
        draw(number=2**24 - 1),
    ]
    correlation = torch.corrcoef(torch.stack(different)) - torch.eye(len(different))
    assert correlation.abs().max() < 5 / DRAWS**0.5
    assert torch.equal(draw(), draw())


def test_samples_of_a_batch_are_independent():
    z = Noise.of(0, 0, 30).normal(Stream.PRIOR, (DRAWS,))
    correlation = torch.corrcoef(z) - torch.eye(30)
    assert correlation.abs().max() < 5 / DRAWS**0.5


@pytest.mark.parametrize(
    "shape", [(), (1,), (2,), (3,), (5, 1), (3, 5, 7), (1, 8, 8), (3, 32, 32)]
)
@pytest.mark.parametrize("kind", ["uniform", "normal", "rademacher"])
def test_a_sample_does_not_depend_on_its_mates(kind, shape):
    def draw(noise):
        return getattr(noise, kind)(Stream.PRIOR, shape)

    everyone = draw(Noise.of(9, 0, 64))
    assert everyone.shape == (64, *shape)
    for k in (0, 5, 7):
        assert torch.equal(draw(Noise.of(9, k, k + 1))[0], everyone[k])
        assert torch.equal(draw(Noise.of(9, 0, 8))[k], everyone[k])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(Noise(9, order)), everyone[order])
    assert torch.equal(draw(Noise.of(9, 0, 64).rows(order[:3])), everyone[order[:3]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    cpu, gpu = Noise.of(2**63, 0, 16), Noise.of(2**63, 0, 16, device="cuda")
    shape = (3, 8, 8)
    assert torch.equal(gpu.uniform(Stream.DATA, shape).cpu(), cpu.uniform(Stream.DATA, shape))
    torch.testing.assert_close(
        gpu.normal(Stream.DATA, shape).cpu(), cpu.normal(Stream.DATA, shape), rtol=0, atol=1e-14
    )


def test_no_samples_is_a_batch_too():
    assert Noise.of(0, 3, 3).normal(Stream.PRIOR, (2, 2)).shape == (0, 2, 2)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\*\*64\)"):
        Noise.of(seed, 0, 1)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2**32 - 1, 2**32 + 1), (3, 2)])
def test_index_out_of_range(start, stop):
    with pytest.raises(ValueError, match="sample indices must lie in"):
        Noise.of(0, start, stop)


def test_step_and_draw_out_of_range():
    noise = Noise.of(0, 0, 1)
    with pytest.raises(ValueError, match="step must lie in"):
        noise.at(2**32)
    with pytest.raises(ValueError, match="draw must lie in"):
        noise.uniform(Stream.DATA, (), draw=2**24)


def test_streams_fit_their_byte():
    assert all(0 <= stream < 256 for stream in Stream)
    assert len({int(stream) for stream in Stream}) == len(Stream)


@pytest.mark.parametrize("size", [1, 300, 70_000])
def test_reading_ahead_changes_no_bit(size):
    """Chunks of many steps, of few, and of one that is too large to be read ahead of."""
    plain = Noise.of(5, 3, 6)
    ahead = plain.reading_ahead(200)
    for step in (0, 1, 2, 150, 199, 7, 250):  # also back, and past the end
        for draw in (0, 1):
            expected = plain.at(step).normal(Stream.CORRECTOR, (size,), draw)
            assert ahead.at(step).normal(Stream.CORRECTOR, (size,), draw).equal(expected)
    shape = (3, size)
    assert (
        ahead.at(1)
        .normal(Stream.CORRECTOR, shape)
        .equal(plain.at(1).normal(Stream.CORRECTOR, shape))
    )


def test_rows_of_a_batch_that_reads_ahead_have_their_own_noise():
    ahead = Noise.of(5, 0, 4).reading_ahead(10)
    whole = ahead.at(2).normal(Stream.PREDICTOR, (3,))
    some = ahead.rows(torch.tensor([3, 1])).at(2).normal(Stream.PREDICTOR, (3,))
    assert some.equal(whole[[3, 1]])
