"""However a network is asked, and whatever it is about, its Denoiser is the exact one."""

import itertools
import math

import mpmath
import pytest
import torch
from torch import nn

import scoreflow as sf
from scoreflow.errors import RequestError
from scoreflow.models.asking import Asking, Label
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.time_embedding import sinusoidal_embedding
from scoreflow.sde import EDMSDE, VESDE, VPSDE, RectifiedSDE, SubVPSDE
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.base import broadcast

F64 = torch.float64
SDES = {
    "vp": VPSDE.linear(100),
    "subvp": SubVPSDE.linear_continuous(100),
    "ve": VESDE(100, 0.01, 80.0),
    "edm": EDMSDE(100, 0.01, 80.0),
}
VIEWS = ("eps", "x_0", "v", "u", "score")


class Foreign(nn.Module):
    """Exact for a mixture, in a world of its own: other images, noise, input, label and datum.

    It is written from that world's side: y_t = alpha y_0 + sigma_y eps, its input y_t c_in, its
    datum y_0 / std, its label the ratio of noise to signal.
    """

    def __init__(self, law, sde, unit, std, input_scale, output, scale=1.0):
        super().__init__()
        low, width = (-scale, 2 * scale) if unit else (0.0, scale)
        self.law = GaussianMixture(
            law.weights, (law.means - low) / width, law.covariances / width**2
        )
        self.sde, self.width, self.std = sde, width, std
        self.input_scale, self.output = input_scale, output
        self.t = None

    def forward(self, x, label):
        alpha, noise = self.sde.alpha(self.t), self.sde.sigma(self.t) / self.width
        torch.testing.assert_close(label, (noise / alpha).expand(len(x)), rtol=1e-12, atol=0)
        c_in = {
            "unit": 1 / ((alpha * self.std) ** 2 + noise**2).sqrt(),
            "none": torch.ones_like(alpha),
            "alpha": 1 / alpha,
        }[self.input_scale]
        y = x / broadcast(c_in, x)
        score = self.law.score(y, alpha, noise)
        alpha, noise = broadcast(alpha, y), broadcast(noise, y)
        eps = -noise * score
        datum = (y + noise**2 * score) / alpha / self.std
        angle = torch.atan2(noise, alpha * self.std)
        return {
            "eps": eps,
            "x_0": datum,
            "v": angle.cos() * eps - angle.sin() * datum,
            "u": eps - datum,
            "score": noise * score,
            "gradient": score,
        }[self.output]


@pytest.mark.parametrize("unit", [False, True], ids=["symmetric", "unit"])
@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("output", ["eps", "x_0", "v", "u", "score", "gradient"])
def test_every_way_of_asking_gives_the_exact_denoiser(name, output, unit, mixture):
    sde = SDES[name]
    times = (
        torch.tensor(37.25, dtype=F64),
        torch.tensor([1.0, 8.5, 50.0, 77.7, 100.0], dtype=F64),
    )
    stds = ((1.0, 1.0), (0.6, 1.0), (0.6, 255 / 256))
    for (std, scale), input_scale, t in itertools.product(stds, ("unit", "none", "alpha"), times):
        network = Foreign(mixture, sde, unit, std, input_scale, output, scale)
        network.t = t
        model = ScoreModel(
            network,
            sde,
            output,
            precision="float64",
            label=Label("sigma", 1.0, 0.0),
            input_scale=input_scale,
            data_std=std,
            data_range="unit" if unit else "symmetric",
            data_scale=scale,
        )
        x_0, eps = points(mixture)
        x_t = sde.perturb(x_0, t, eps)
        found, exact = model(x_t, t), mixture.denoiser(sde)(x_t, t)
        for view in VIEWS:
            torch.testing.assert_close(
                getattr(found, view), getattr(exact, view), rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize("unit", [False, True], ids=["symmetric", "unit"])
@pytest.mark.parametrize("output", ["x_0", "v", "u"])
def test_on_the_rectified_path_too(output, unit, mixture):
    sde, t = RectifiedSDE(100), torch.tensor([1.0, 8.5, 50.0, 77.7, 99.0], dtype=F64)
    network = Foreign(mixture, sde, unit, 0.6, "unit", output)
    network.t = t
    width = 2.0 if unit else 1.0
    model = ScoreModel(
        network,
        sde,
        output,
        precision="float64",
        label=lambda t: t / (100 - t) / width,
        data_std=0.6,
        data_range="unit" if unit else "symmetric",
    )
    x_0, eps = points(mixture)
    x_t = sde.perturb(x_0, t, eps)
    found, exact = model(x_t, t), mixture.denoiser(sde)(x_t, t)
    for view in VIEWS:
        torch.testing.assert_close(
            getattr(found, view), getattr(exact, view), rtol=1e-9, atol=1e-9
        )


def points(mixture):
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(5, 2, dtype=F64, generator=generator)
    return mixture.means[[0, 1, 2, 0, 1]], eps


class Answers(nn.Module):
    """Answers what it was given, whatever it is asked; keeps the question."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []

    def forward(self, x, label):
        self.asked.append((x, label))
        return self.answer


@pytest.mark.parametrize("std", [0.5, 0.6162, 2.0])
def test_edm_preconditioning_is_v_of_the_data_over_their_std_at_every_noise(std):
    """D = c_skip x + c_out F (Karras et al. 2022, Table 1), against 50 digits at both ends."""
    sde = VESDE(1000, 1e-5, 1e5)
    t = torch.linspace(1, 1000, 40, dtype=F64)
    sigma = sde.sigma(t)
    generator = torch.Generator().manual_seed(1)
    z, eps, raw = torch.randn(3, 40, 1, dtype=F64, generator=generator)
    x = std * z + sigma[:, None] * eps
    model = ScoreModel(
        Answers(-raw),
        sde,
        "v",
        precision="float64",
        label=Label("log_sigma", 0.25, 0),
        data_std=std,
    )
    found = model(x, t)
    worst = dict.fromkeys(("x_0", "eps"), 0.0)
    with mpmath.workdps(50):
        for k in range(40):
            s, own, y, f = (mpmath.mpf(float(each)) for each in (sigma[k], std, x[k], raw[k]))
            whole = own**2 + s**2
            denoised = own**2 / whole * y + s * own / mpmath.sqrt(whole) * f
            exact = {"x_0": denoised, "eps": (y - denoised) / s}
            for view in worst:
                error = mpmath.mpf(float(getattr(found, view)[k])) - exact[view]
                worst[view] = max(worst[view], abs(float(error)))
    assert max(worst.values()) < 5e-15, worst
    ((asked, label),) = model.network.asked
    torch.testing.assert_close(asked, x / (std**2 + sigma[:, None] ** 2).sqrt())
    torch.testing.assert_close(label, sigma.log() / 4)


def test_functions_of_time_are_asked_for_labels_and_scales():
    sde, t = SDES["vp"], torch.tensor([3.0, 50.5], dtype=F64)
    network = Answers(torch.zeros(2, 3))
    x = torch.ones(2, 3, dtype=F64)
    index = ScoreModel(network, sde, label=lambda t: (t - 1).long(), input_scale=lambda t: 1 / t)
    index(x, t)
    real = ScoreModel(network, sde, label=lambda t: t.cos())
    real(x, t)
    (asked, whole), (_, cosine) = network.asked
    assert whole.dtype == torch.int64
    assert whole.tolist() == [2, 49]
    torch.testing.assert_close(asked, (x / t[:, None]).float())
    torch.testing.assert_close(cosine, t.cos().float())


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("of", ["time", "sigma", "log_sigma", "log_snr"])
def test_labels_are_affine_in_their_quantity(of, shape):
    sde, t = SDES["ve"], torch.full(shape, 41.5, dtype=F64)
    sigma = 0.01 * 8000 ** (40.5 / 99)
    decibels = 10 * math.log10(1 / sigma**2 + 1e-6)
    known = {"time": 41.5, "sigma": sigma, "log_sigma": math.log(sigma), "log_snr": decibels}
    quantity = known[of]
    asking = Asking(Label(of, 0.25, -3))
    found = asking.labels(sde, torch.zeros(2, 1, dtype=F64), t)
    torch.testing.assert_close(found, torch.full((2,), 0.25 * quantity - 3, dtype=F64))
    seen = Asking(Label("sigma", 1, 0), data_range="unit")  # the noise of images in [0, 1]
    found = seen.labels(sde, torch.zeros(2, 1, dtype=F64), t)
    torch.testing.assert_close(found, torch.full((2,), sigma / 2, dtype=F64))


ENDS = {**SDES, "rectified": RectifiedSDE(100), "cosine": VPSDE.cosine(1000)}


@pytest.mark.parametrize("name", ENDS)
def test_decibels_are_finite_to_the_end_and_of_the_noise_that_it_sees(name):
    """Against alpha^2 / sigma^2 itself: off by log(1 + 1e-6 / SNR), which is -60 dB at SNR 0."""
    sde = ENDS[name]
    t = torch.linspace(0.03, sde.num_steps, 37, dtype=F64)
    label = Label("log_snr", 1.0, 0.0)
    for of_range, unit in (("symmetric", 1.0), ("unit", 2.0)):
        asking = Asking(label, data_range=of_range)
        found = asking.labels(sde, torch.zeros(37, 1, dtype=F64), t)
        snr = (sde.alpha(t) / sde.sigma(t) * unit) ** 2
        torch.testing.assert_close(found, 10 * (snr + 1e-6).log10(), rtol=1e-9, atol=1e-9)
        assert (found.diff() < 0).all()
        assert found.min() >= -60.0001  # the chain's last alpha is 0 or next to it
        one = [asking.labels(sde, torch.zeros(1, 1, dtype=F64), each) for each in t]
        assert torch.equal(torch.cat(one), found)  # to the bit, whatever the batch
    if name == "rectified":
        assert found[-1] == pytest.approx(-60, abs=1e-9)


def zeros_per_step(label, sde, low, high):
    """Zeros of the fastest sinusoid of the embedding, for a step between two times."""
    t = torch.linspace(low, high, 20_001, dtype=F64)
    labels = Asking(label).labels(sde, torch.zeros(len(t), 1, dtype=F64), t)
    fastest = sinusoidal_embedding(labels, 32)[:, 0]
    return int((fastest.sign().diff() != 0).sum()) / (high - low)


@pytest.mark.parametrize("n", [500, 2000])
def test_how_smooth_in_time_the_fastest_sinusoid_is(n):
    """Its period in steps: 2 pi of the index, 20 pi of a tenth of it.

    VE's log-SNR is linear in t and falls by 20 log10(sigma_max / sigma_min) = 60 dB from 1 to N:
    2 pi (N - 1) / 60.
    """
    sde = VESDE(n, 0.01, 10.0)
    periods = {
        Label(): 2 * math.pi,
        Label("time", 0.1, -1.0): 20 * math.pi,
        Label("log_snr"): 2 * math.pi * (n - 1) / 60,
    }
    for label, period in periods.items():
        found = zeros_per_step(label, sde, 1, n)
        assert found == pytest.approx(2 / period, abs=2 / (n - 1)), label  # a zero at either end


def test_an_answer_may_be_the_sample_of_an_object():
    class Output:
        sample = torch.full((2, 3), 0.5)

    model = ScoreModel(Answers(Output()), SDES["vp"])
    eps = model(torch.ones(2, 3, dtype=F64), torch.tensor(5.0, dtype=F64)).eps
    assert (eps == 0.5).all()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"label": "time"}, "label must be a Label, or a function of the times, got 'time'"),
        ({"input_scale": "sigma"}, "input_scale must be one of unit, none, alpha, got 'sigma'"),
        ({"data_range": "bytes"}, "data_range must be one of symmetric, unit, got 'bytes'"),
        ({"data_std": 0.0}, r"data_std must be in \[1e-06, 1e\+06\], got 0\.0"),
        ({"data_std": 1e308}, r"data_std must be in \[1e-06, 1e\+06\], got 1e\+308"),
        ({"output": "mean", "data_std": 0.5}, "output = mean is about images in"),
        ({"output": "mean", "data_range": "unit"}, "got 1, unit and 1"),
        ({"integer_times": True, "t_min": 0.5}, "begin at t = 1, which t_min must be, got 0.5"),
    ],
)
def test_ways_of_asking_that_there_are_not_are_refused(given, reason):
    with pytest.raises(RequestError, match=reason):
        sf.ScoreModel(nn.Identity(), SDES["vp"], **given)


@pytest.mark.parametrize("answer", [lambda t: t[:1], lambda t: 3.0, lambda t: t[:, None]])
def test_a_function_of_time_of_another_shape_is_refused(answer):
    model = ScoreModel(Answers(torch.zeros(2, 3)), SDES["vp"], label=answer)
    with pytest.raises(RequestError, match=r"label must return a tensor of shape \(2,\)"):
        model(torch.ones(2, 3, dtype=F64), torch.tensor(5.0, dtype=F64))


def test_a_label_is_of_something_that_there_is():
    with pytest.raises(RequestError, match="label must be one of time, sigma, log_sigma"):
        Label("snr")
