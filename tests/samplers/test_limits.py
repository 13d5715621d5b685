"""Denoisers around denoisers: dynamic thresholds by hand, and a recorder that changes nothing."""

import numpy as np
import pytest
import torch

from scoreflow.samplers import (
    DDIM,
    Clipped,
    Heun,
    Recorded,
    Thresholded,
    UniPC,
    grid,
    sample,
)
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.vp import VPSDE

SDE = VPSDE.linear(100)
T = torch.tensor(50.0, dtype=torch.float64)


def saying(x_0):
    """A denoiser of one answer."""
    return lambda x_t, t: predict(SDE, x_t, t, "x_0", x_0)


def test_a_dynamic_threshold_by_hand():
    """Of |x_0| = 0, 1, 2, 3, 4 the 0.6 quantile lies 0.4 of the way from 2 to 3: q = 2.4."""
    x_0 = torch.tensor([[0.0, -4.0, 2.0, -1.0, 3.0]], dtype=torch.float64)
    found = Thresholded(saying(x_0), 0.6)(torch.zeros_like(x_0), T).x_0
    expected = torch.tensor([[0.0, -1.0, 2 / 2.4, -1 / 2.4, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_within_the_range_it_is_clipping():
    """Where the quantile is below 1, q = 1: one outlier of 16 at a share of 0.9."""
    x_0 = torch.linspace(-0.8, 0.8, 16, dtype=torch.float64).view(1, 1, 4, 4).clone()
    x_0[0, 0, 0, 0] = -7
    x_t = torch.full_like(x_0, 0.3)
    found, clipped = Thresholded(saying(x_0), 0.9)(x_t, T), Clipped(saying(x_0))(x_t, T)
    assert torch.equal(found.x_0, clipped.x_0)
    assert torch.equal(found.eps, clipped.eps)


@pytest.mark.parametrize("share", [0.01, 0.37, 0.9, 0.995, 1.0])
def test_each_sample_has_the_quantile_of_its_own(share):
    """Against numpy's quantile, sample by sample, among mates of every size."""
    scales = torch.logspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    x_0 = scales * Noise.of(0, 0, 9).normal(Stream.PRIOR, (3, 4, 4))
    x_t = torch.zeros_like(x_0)
    found = Thresholded(saying(x_0), share)(x_t, T).x_0
    for k in range(9):
        q = max(1.0, np.quantile(x_0[k].abs().numpy(), share))
        expected = torch.from_numpy(np.clip(x_0[k].numpy(), -q, q) / q)
        torch.testing.assert_close(found[k], expected, rtol=1e-13, atol=0)
        alone = Thresholded(saying(x_0[k : k + 1]), share)(x_t[:1], T).x_0
        assert torch.equal(alone[0], found[k])
    assert found.abs().max() <= 1


def test_the_other_views_belong_to_the_threshold():
    x_0 = 5 * Noise.of(0, 0, 2).normal(Stream.PRIOR, (8,))
    x_t = Noise.of(1, 0, 2).normal(Stream.PRIOR, (8,))
    found = Thresholded(saying(x_0), 0.8)(x_t, T)
    eps = (x_t - SDE.alpha(T) * found.x_0) / SDE.sigma(T)
    torch.testing.assert_close(found.eps, eps, rtol=1e-12, atol=1e-12)


def test_a_thresholded_image_is_the_same_in_any_batch(elementwise):
    sde = VPSDE.linear(100)
    times = grid("uniform", sde, 10)

    def draw(noise):
        limited = Thresholded(elementwise(sde), 0.5)
        return sample(UniPC(2), limited, sde, times, noise, (1, 4, 4))

    everyone = draw(Noise.of(7, 0, 16))
    for k in (0, 3, 15):
        assert torch.equal(draw(Noise.of(7, k, k + 1))[0], everyone[k])
    assert not torch.equal(everyone, sample(
        UniPC(2), elementwise(sde), sde, times, Noise.of(7, 0, 16), (1, 4, 4)
    ))  # fmt: skip


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        Thresholded(saying(torch.zeros(1, 2)), share)


def test_a_recorder_keeps_each_call_and_changes_nothing(elementwise):
    times, noise = grid("uniform", SDE, 5), Noise.of(0, 0, 6)
    plain = sample(DDIM(), elementwise(SDE), SDE, times, noise, (3,))
    rows = torch.tensor([4, 1])
    recorded = Recorded(elementwise(SDE), rows)
    states = [SDE.prior_std() * noise.normal(Stream.PRIOR, (3,))]
    heard = sample(
        DDIM(), recorded, SDE, times, noise, (3,), lambda _k, x: states.append(x.clone())
    )
    assert torch.equal(heard, plain)
    assert [t for t, _ in recorded.records] == times[:-1].tolist()
    for (t, kept), x_t in zip(recorded.records, states[:-1], strict=True):
        expected = elementwise(SDE)(x_t, torch.tensor(t, dtype=torch.float64)).x_0[rows]
        assert kept.dtype == torch.float32
        assert torch.equal(kept, expected.float())
    assert torch.equal(recorded.records[-1][1], plain[rows].float())  # the last step returns x_0


def test_a_recorder_hears_every_evaluation(elementwise):
    """Heun asks at both ends of a step, and at its start alone in the last; a slice of rows."""
    recorded = Recorded(elementwise(SDE), slice(2))
    sample(Heun(), recorded, SDE, grid("uniform", SDE, 4), Noise.of(0, 0, 3), (2,))
    assert [t for t, _ in recorded.records] == [100, 75, 75, 50, 50, 25, 25]
    assert all(x_0.shape == (2, 2) for _, x_0 in recorded.records)


def test_a_recorder_of_clocks_apart_is_refused(elementwise):
    with pytest.raises(ValueError, match="one time for the whole batch"):
        Recorded(elementwise(SDE))(torch.zeros(2, 3), torch.tensor([3.0, 4.0]).double())
