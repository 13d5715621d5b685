"""The law of each pixel against the closed form of a level grid, and what is made of it."""

import math

import pytest
import torch
from torch import nn

from scoreflow.errors import RequestError
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.models.residual import pixel_law
from scoreflow.models.residual.pixel_law import PixelLaw
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import VPSDE, RectifiedSDE
from scoreflow.sde.analytic import LevelGrid
from scoreflow.sde.noise import Noise, Stream

LEVELS, SHAPE = 17, (2, 3, 4)
PIXELS = math.prod(SHAPE)
RATIOS = [1e-4, 1e-2, 0.1, 1.0, 10.0, 80.0]


def scales(ratio):
    r = torch.tensor(ratio, dtype=torch.float64)
    return 1 / (1 + r**2).sqrt(), r / (1 + r**2).sqrt()


def law_of(probabilities):
    """The same law of every pixel."""
    law = PixelLaw(SHAPE, LEVELS).double()
    law.probabilities.copy_(probabilities.expand(*SHAPE, LEVELS))
    return law


@pytest.fixture(scope="module")
def probabilities():
    drawn = torch.Generator().manual_seed(0)
    found = torch.rand(LEVELS, generator=drawn, dtype=torch.float64) ** 6 + 1e-5
    return found / found.sum()


def noisy(ratio, count=40):
    alpha, sigma = scales(ratio)
    drawn = torch.Generator().manual_seed(1)
    x_0 = 2 * torch.rand(count, PIXELS, generator=drawn, dtype=torch.float64) - 1
    eps = torch.randn(count, PIXELS, generator=drawn, dtype=torch.float64).clamp(-3.5, 3.5)
    return alpha * x_0 + sigma * eps, alpha, sigma


@pytest.mark.parametrize("ratio", RATIOS)
def test_means_and_deviations_are_the_level_grids(ratio, probabilities):
    """Tweedie's second formula gives the deviation: V[x_0] = sigma^2 / alpha dE[x_0] / dx."""
    x, alpha, sigma = noisy(ratio)
    x.requires_grad_()
    score, mean = LevelGrid(probabilities, PIXELS).score_and_mean(x, alpha, sigma)
    (slope,) = torch.autograd.grad(mean.sum(), x)
    known = law_of(probabilities)(x.detach().view(-1, *SHAPE), alpha, sigma)
    assert torch.allclose(known.datum.flatten(1), mean, atol=1e-8)
    assert torch.allclose(known.noise.flatten(1), -sigma * score, atol=1e-9)
    assert torch.allclose(known.spread.flatten(1).square(), alpha * slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ratio", RATIOS[:5])
def test_derivatives_are_those_of_finite_differences(ratio, probabilities):
    x, alpha, sigma = noisy(ratio, 8)
    law, x = law_of(probabilities), x.view(-1, *SHAPE).requires_grad_()
    step = 1e-5 * sigma
    after, before = law((x + step).detach(), alpha, sigma), law((x - step).detach(), alpha, sigma)
    for name, value in vars(law(x, alpha, sigma)).items():
        (slope,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        found = (getattr(after, name) - getattr(before, name)) / (2 * step)
        unit = 1 if name == "datum" else 1 / sigma
        assert torch.allclose(slope, found, atol=float(2e-5 * unit), rtol=1e-5), name


def test_each_pixel_has_its_own_law_and_a_large_image_those_of_its_channels(monkeypatch):
    drawn = torch.Generator().manual_seed(2)
    images = torch.randint(LEVELS, (300, *SHAPE), generator=drawn, dtype=torch.uint8)
    images[:, 0, 1, 2] = 3  # always
    images[:, 1] = images[:, 1] // 4
    own = PixelLaw(SHAPE, LEVELS)
    own.fit(images)
    monkeypatch.setattr(pixel_law, "MOST_NUMBERS", 10)
    shared = PixelLaw(SHAPE, LEVELS)
    shared.fit(images)
    assert own.probabilities.shape == (*SHAPE, LEVELS)
    assert shared.probabilities.shape == (SHAPE[0], 1, 1, LEVELS)
    for law in (own, shared):
        assert torch.allclose(law.probabilities.sum(3), torch.ones(()), atol=1e-6)
        assert (law.probabilities > 0).all()
    counts = torch.bincount(images[:, 1].flatten().long(), minlength=LEVELS) / (300 * 12)
    assert torch.allclose(shared.probabilities[1, 0, 0], counts, atol=2e-4)
    assert own.probabilities[0, 1, 2, 3] > 0.8
    # the same law by either way, in blocks of any size
    own.probabilities.copy_(shared.probabilities.expand(*SHAPE, LEVELS))
    x, alpha, sigma = noisy(0.1, 5)
    whole = own(x.view(-1, *SHAPE), alpha, sigma)
    monkeypatch.setitem(pixel_law.AT_ONCE, "cpu", 7 * (LEVELS + 1))
    for law in (own, shared):
        found = law(x.view(-1, *SHAPE), alpha, sigma)
        for name, value in vars(whole).items():
            assert torch.allclose(getattr(found, name), value, atol=1e-12), name


def fine_law():
    """256 levels, nearly all of them black, and one mixed; 12 pixels."""
    law = PixelLaw((1, 3, 4), 256).double()
    black = torch.full((256,), 1e-6, dtype=torch.float64)
    black[0] = 1 - black[1:].sum()
    law.probabilities.copy_(black.expand(1, 3, 4, 256))
    drawn = torch.Generator().manual_seed(5)
    mixed = torch.rand(256, generator=drawn, dtype=torch.float64)
    law.probabilities[0, 0, 0] = mixed / mixed.sum()
    return law


EVERY_WAY = [3e-5, 1e-3, 2e-2, 0.1, 0.38, 0.4, 3.0, 30.0, 1e3]
"""Noise over signal: of windows of 4 edges and more, of all edges, and of points."""


def test_a_row_is_the_same_to_the_bit_whatever_rows_are_beside_it():
    """Also beside one that is not a number, which has no effect but on itself."""
    law, drawn = fine_law(), torch.Generator().manual_seed(6)
    ratio = torch.tensor(EVERY_WAY, dtype=torch.float64)
    alpha, sigma = scales(ratio)
    shape = (len(ratio), 1, 3, 4)
    x_0 = 2 * torch.rand(shape, generator=drawn, dtype=torch.float64) - 1
    eps = torch.randn(shape, generator=drawn, dtype=torch.float64)
    x = alpha.view(-1, 1, 1, 1) * x_0 + sigma.view(-1, 1, 1, 1) * eps
    lost = x.clone()
    lost[1] = math.nan
    together, beside = law(x, alpha, sigma), law(lost, alpha, sigma)
    for k in range(len(ratio)):
        alone = law(x[k : k + 1], alpha[k : k + 1], sigma[k : k + 1])
        for name, value in vars(alone).items():
            assert torch.equal(value[0], getattr(together, name)[k]), (name, k)
            if k != 1:
                assert torch.equal(value[0], getattr(beside, name)[k]), (name, k)
    assert beside.datum[1].isnan().all()


@pytest.mark.parametrize("ratio", EVERY_WAY)
def test_fine_levels_are_the_level_grids_too(ratio):
    """Within 1e-6 of what is left: bins that are points, and edges that are nearly equal."""
    law, (alpha, sigma) = fine_law(), scales(ratio)
    drawn = torch.Generator().manual_seed(7)
    eps = torch.randn(20, 12, generator=drawn, dtype=torch.float64).clamp(-3.5, 3.5)
    x = (-alpha * (1 - 0.3 / 256) + sigma * eps).requires_grad_()
    known = law(x.detach().view(-1, 1, 3, 4), alpha, sigma)
    for pixel in (0, 5):
        grid = LevelGrid(law.probabilities.flatten(0, 2)[pixel], 1)
        score, mean = grid.score_and_mean(x[:, pixel, None], alpha, sigma)
        (slope,) = torch.autograd.grad(mean.sum(), x)
        of_datum = (slope[:, pixel] * sigma**2 / alpha).sqrt()  # the deviation of x_0
        spread = known.spread.flatten(1)[:, pixel] * sigma / alpha
        assert torch.allclose(spread, of_datum, rtol=2e-5), pixel
        off = (known.datum.flatten(1)[:, pixel] - mean[:, 0]).abs()
        assert (off < 1e-6 * of_datum + 1e-15).all(), pixel
        assert torch.allclose(known.noise.flatten(1)[:, pixel], -sigma * score[:, 0], atol=1e-6)


def test_counts_are_of_all_the_images_mixed_with_the_channels(monkeypatch):
    """Images in the order of their classes: first dark ones, then bright ones."""
    monkeypatch.setattr(pixel_law, "IMAGES", 30)
    dark, bright = (torch.full((30, 1, 1, 2), level, dtype=torch.uint8) for level in (1, 3))
    bright[:, 0, 0, 1] = 2
    law = PixelLaw((1, 1, 2), 4).double()
    law.fit(torch.cat((dark, bright)))
    # 15 of each are looked at; beside its own 30 a pixel has 64 of the channel's law
    own = torch.tensor([[0, 15, 0, 15], [0, 15, 15, 0]], dtype=torch.float64)
    channel = torch.tensor([0, 0.5, 0.25, 0.25], dtype=torch.float64)
    expected = (1 - 1e-4) * (own + 64 * channel) / 94 + 1e-4 / 4
    assert torch.allclose(law.probabilities[0, 0], expected, atol=1e-12)


def test_what_is_seen_mirrored_is_counted_mirrored():
    images = torch.tensor([[[[0, 1, 2]]]] * 50, dtype=torch.uint8)
    law = PixelLaw((1, 1, 3), 3).double()
    law.fit(images, flip=True)
    probabilities = law.probabilities[0, 0]
    assert torch.allclose(probabilities, probabilities.flip(0), atol=1e-12)
    assert probabilities[0, 0] == pytest.approx(probabilities[0, 2].item())
    law.fit(images)
    assert law.probabilities[0, 0, 0, 0] > 2 * law.probabilities[0, 0, 0, 2]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 2, 3), "must be .n, 2, 3, 4., n >= 1"),
        (torch.zeros(0, *SHAPE), "n >= 1"),
        (torch.full((2, *SHAPE), 17), "levels in 0..16, got 17..17"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(RequestError, match=message):
        PixelLaw(SHAPE, LEVELS).fit(images.to(torch.int32))


def test_another_size_is_refused(probabilities):
    one = torch.ones((), dtype=torch.float64)
    with pytest.raises(RequestError, match="x_t must be"):
        law_of(probabilities)(torch.zeros(2, 2, 4, 3), one, one)


def test_far_outside_all_data_it_stays_finite(probabilities):
    alpha, sigma = scales(1e-3)
    x = torch.tensor([-50.0, -1.5, 1.5, 50.0]).view(4, 1, 1, 1).expand(4, *SHAPE)
    known = law_of(probabilities)(x, alpha, sigma)
    for value in vars(known).values():
        assert value.isfinite().all()
    assert (known.datum.abs() <= 1).all()


class Rest(nn.Module):
    """Answers a constant."""

    def __init__(self, law, answer=0.0):
        super().__init__()
        self.pixels, self.answer = law, answer

    def forward(self, x, _index):
        assert x.shape[1] == pixel_law.INPUTS * SHAPE[0]
        return torch.full_like(x[:, : SHAPE[0]], self.answer)


@pytest.mark.parametrize("sde", [VPSDE.linear(1000), RectifiedSDE(50)])
def test_every_view_is_of_the_datum_m_plus_s_f(sde, probabilities):
    model = ScoreModel(Rest(law_of(probabilities), 0.7), sde, "residual", precision="float64")
    x = noisy(1.0, 3)[0].view(-1, *SHAPE)
    for share in (0.02, 0.5, 0.98):
        t = torch.tensor(share * sde.num_steps, dtype=torch.float64).clamp(min=1)
        alpha, sigma, found = sde.alpha(t), sde.sigma(t), model(x, t)
        known = model.pixels(x, alpha, sigma)
        x_0 = known.datum + 0.7 * sigma / alpha * known.spread
        assert torch.allclose(found.x_0, x_0, atol=1e-9)
        assert torch.allclose(found.eps, (x - alpha * x_0) / sigma, atol=1e-9)
    end = torch.tensor(float(sde.num_steps), dtype=torch.float64)
    assert model(x, end).v.isfinite().all()


@pytest.mark.parametrize("method", ["dopri5", "nodes"])
def test_the_flow_of_an_answer_of_nothing_has_the_density_of_independent_pixels(
    method, probabilities
):
    """Exactly: the divergence's probes see a Jacobian that is diagonal."""
    grid, sde, t = LevelGrid(probabilities, PIXELS), VPSDE.linear(1000), 5.0
    model = ScoreModel(Rest(law_of(probabilities)), sde, "residual", precision="float64")
    noise, time = Noise.of(3, 0, 6), torch.tensor(t, dtype=torch.float64)
    x = sde.perturb(grid.sample(noise), time, noise.normal(Stream.DEQUANTIZE, (PIXELS,)))
    solver = Solver(method=method, probes=1, tolerance=1e-7, nodes=64, substeps=4)
    found = log_likelihood(model, sde, x.view(-1, *SHAPE), t, noise, solver)
    # from the density that these pixels have at N, not from the prior that is nearly it
    end, latent = torch.tensor(float(sde.num_steps)).double(), found.latent.flatten(1)
    prior = -0.5 * (latent**2 + math.log(2 * math.pi)).sum(1)
    at_end = grid.log_prob(latent, sde.alpha(end), sde.sigma(end))
    exact = grid.log_prob(x, sde.alpha(time), sde.sigma(time)) - at_end + prior
    # nodes are a quadrature whose noise is the roughness of the integrand
    tolerance = 1e-4 if method == "dopri5" else 0.5
    assert torch.allclose(found.log_prob[:, 0], exact, atol=tolerance)


def test_what_has_no_law_is_refused():
    with pytest.raises(RequestError, match="needs a network with a PixelLaw"):
        ScoreModel(nn.Identity(), VPSDE.cosine(10), "residual")
    with pytest.raises(RequestError, match="images in"):
        ScoreModel(Rest(PixelLaw(SHAPE, LEVELS)), VPSDE.cosine(10), "residual", data_range="unit")
    with pytest.raises(ValueError, match="num_levels"):
        PixelLaw(SHAPE, 1 << 16)
