"""The corrector with steps of each sample's own: at rest in many dimensions, alone in any."""

import pytest
import scipy.stats
import torch
from torch import Tensor

from scoreflow.samplers import AnnealedLangevin, Langevin, Step
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.vp import VPSDE

SDE = VPSDE.linear(200)
T, S = torch.tensor([150.0, 149.0], dtype=torch.float64)


def standard(x_t: Tensor, t: Tensor):
    """Exact for N(0, I) data: every marginal is N(0, I), and the score is -x."""
    return predict(SDE, x_t, t, "score", -x_t)


def corrected(corrector, dim: int, batch: int, rounds: int) -> Tensor:
    """Started in the marginal."""
    noise = Noise.of(0, 0, batch)
    x = noise.normal(Stream.PRIOR, (dim,))
    for k in range(rounds):
        x = corrector.correct(x, Step(standard, SDE, T, S, noise.at(k)))
    return x


@pytest.mark.parametrize("corrector", [Langevin(snr=0.16), AnnealedLangevin(snr=0.16)])
def test_the_marginal_is_at_rest_in_many_dimensions(corrector):
    """64 dimensions, 60 steps: exp(-2 h 60) = 0.2 % of any error is left.

    At rest, unadjusted Langevin has variance 1 / (1 - h / 2); steps proportional to 1 / |score|^2
    weight the law by |x|^2, which makes it 1 + 2 / D times larger.
    """
    x = corrected(corrector, 64, 1000, 60)
    h = 2 * 0.16**2
    standard_error = (2 / x.numel()) ** 0.5
    assert abs(x.mean()) < 4 / x.numel() ** 0.5
    a_squared = 1 - SDE.betas[149]
    at_rest = 1 / (1 - a_squared * h / 2)
    if isinstance(corrector, Langevin):
        at_rest *= 1 + 2 / 64
    second_order = (h + 2 / 64) ** 2
    assert abs(x.var() - at_rest) < 4 * standard_error + second_order
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 5 / x.numel() ** 0.5  # pixels stay independent


def test_in_one_dimension_only_the_annealed_one_is():
    """What `Langevin` says of itself: its steps are long where the score is small."""
    pvalues = [
        scipy.stats.kstest(corrected(kind(snr=0.1), 1, 2000, 50)[:, 0].numpy(), "norm").pvalue
        for kind in (Langevin, AnnealedLangevin)
    ]
    assert pvalues[0] < 1e-6
    assert pvalues[1] > 0.01


def test_the_step_is_its_formula():
    """h = 2 (a snr sqrt(D) / |score|)^2 with that sample's score (Song et al. 2021, Alg. 5)."""
    noise = Noise.of(0, 0, 6)
    x = 3 * noise.normal(Stream.PRIOR, (2, 4))
    z = noise.normal(Stream.CORRECTOR, (2, 4))
    result = Langevin(snr=0.3).correct(x, Step(standard, SDE, T, S, noise))
    a_squared = 1 - SDE.betas[149]  # the step from 150 to 149
    for k in range(6):
        h = 2 * a_squared * 0.09 * 8 / (x[k] ** 2).sum()
        expected = x[k] - h * x[k] + (2 * h).sqrt() * z[k]
        torch.testing.assert_close(result[k], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [3, 64, 3072])
def test_a_sample_does_not_depend_on_its_mates(dim):
    noise = Noise.of(0, 0, 16)
    scales = torch.logspace(-2, 2, 16, dtype=torch.float64)[:, None]  # mates unlike each other
    x = scales * noise.normal(Stream.PRIOR, (dim,))

    def correct(rows: Tensor) -> Tensor:
        step = Step(standard, SDE, T, S, noise.rows(rows))
        return Langevin(corrections=2).correct(x[rows], step)

    everyone = correct(torch.arange(16))
    permuted = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    for rows in (permuted, torch.tensor([3]), torch.tensor([5, 5, 5, 0]), torch.arange(8)):
        assert torch.equal(correct(rows), everyone[rows])
