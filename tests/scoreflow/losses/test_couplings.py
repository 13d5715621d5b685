"""Why training.coupling = optimal_transport is refused: what is learned then is no score.

One dimension, x_0 ~ N(m, s^2), eps ~ N(0, 1), on the rectified path. The optimal coupling is the
monotone map eps = (x_0 - m) / s; in a batch, sorting. A regression on x_t, affine as the truth is,
finds the mean of eps - x_0 given x_t, and `Prediction` makes the score of it that this u stands
for where data and noise are drawn apart.
"""

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.sde import Noise, RectifiedSDE, Stream
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.prediction import predict

MEAN, STD, COUNT = 0.4, 0.5, 100_000
SDE = RectifiedSDE(10)
T = torch.tensor(6.0, dtype=torch.float64)


def drawn(optimal):
    noise = Noise.of(0, 0, COUNT)
    x_0 = MEAN + STD * noise.normal(Stream.DATA)
    eps = noise.normal(Stream.TRAIN_EPS)
    return (x_0.sort()[0], eps.sort()[0]) if optimal else (x_0, eps)


def regressed(x_t, u):
    """Slope and value at 0 of the line through (x_t, u), and its mean square residual."""
    design = torch.stack([x_t, torch.ones_like(x_t)], 1)
    found = torch.linalg.lstsq(design, u[:, None]).solution[:, 0]
    return found, (design @ found - u).square().mean()


def test_the_u_of_optimal_transport_is_not_the_u_that_the_score_follows_from():
    tau, at = 0.6, torch.tensor([[-1.0], [0.2], [1.5]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    data = GaussianMixture(one, MEAN * one[:, None], STD**2 * one[:, None, None])
    exact = data.denoiser(SDE)(at, T)
    widths = {False: ((1 - tau) ** 2 * STD**2 + tau**2) ** 0.5, True: (1 - tau) * STD + tau}
    found = {}
    for optimal, width in widths.items():
        x_0, eps = drawn(optimal)
        x_t, u = SDE.perturb(x_0[:, None], T, eps[:, None])[:, 0], eps - x_0
        line, left = regressed(x_t, u)
        # by Gaussians: cov(u, x_t) / var(x_t)
        between = (tau - (1 - tau) * STD**2) if not optimal else (1 - STD) * width
        slope = between / width**2
        off = 6 * (float(u.var()) ** 0.5 / width + 1) / COUNT**0.5  # six standard errors
        assert float(line[0]) == pytest.approx(slope, abs=off)
        assert float(x_t.std()) == pytest.approx(width, abs=off)
        if optimal:  # u is a function of x_t: nothing is left to average
            assert float(left) < 1e-2 * float(u.var())
        found[optimal] = predict(SDE, at, T, "u", line[0] * at + line[1]), off
    independent, off = found[False]
    reach = 6 * off  # |x| <= 1.5, and the score is -(x + alpha u) / sigma
    torch.testing.assert_close(independent.u, exact.u, rtol=0, atol=reach)
    torch.testing.assert_close(independent.score, exact.score, rtol=0, atol=reach)
    coupled, _ = found[True]
    own = -(at - (1 - tau) * MEAN) / widths[True] ** 2  # of the law that these x_t have
    for score in (exact.score, own):
        assert float((coupled.score - score).abs().max()) > reach
    assert float((coupled.u - exact.u).abs().max()) > reach


def test_it_is_refused_by_name_with_the_reason(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["run.py", "--mode=train", "--config=toy", f"--workdir={run}", "--device=cpu"]
    assert main([*command, "--config.training.coupling=optimal_transport"]) == 2
    err = capsys.readouterr().err
    assert "training.coupling = optimal_transport" in err
    assert "score, samplers and likelihood follow" in err
    assert len(err.splitlines()) == 1
    assert not run.exists()
