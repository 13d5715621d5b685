"""docs/flow_matching.md: every line that converts, on the exact network of its convention.

Data are Gaussian pixels, so each codebase's network is a closed form: what it is trained to be,
the mean of its target given its input, both of which are linear in the datum and the noise. These
are written here from that codebase's definitions, in its own time.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import scoreflow as sf

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "flow_matching.md").read_text(encoding="utf-8")
GIVEN, ON_A_VP = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| ([^|]+) \|[^`\n]*\| `(sf\.[^\n]*)` \|$", re.MULTILINE)
LINES = dict(ROW.findall(PAGE))
MEAN, STD = 0.3, 0.4
TIMES = torch.tensor([1e-3, 1.0, 17.3, 500.0, 700.7, 999.0, 1000.0], dtype=torch.float64)


class Exact(nn.Module):
    """E[c x + d n | a x + b n] of a datum x ~ N(0.3, 0.16) and noise n, at a label.

    Args:
        law: label -> a, b, c, d.
        time_first: it is called as f(label, input).
    """

    def __init__(self, law, time_first=False):
        super().__init__()
        self.law, self.time_first = law, time_first

    def forward(self, seen, label):
        seen, label = (label, seen) if self.time_first else (seen, label)
        a, b, c, d = (
            torch.as_tensor(each, dtype=torch.float64).expand(len(seen)).view(-1, 1, 1, 1)
            for each in self.law(label)
        )
        gain = (a * c * STD**2 + b * d) / ((a * STD) ** 2 + b**2)
        return c * MEAN + gain * (seen - a * MEAN)


def straight(tau):
    """A path 1 - tau, tau whose network says n - x."""
    return 1 - tau, tau, -1.0, 1.0


def from_noise(t):
    """t x + (1 - t) n, and its slope x - n."""
    return t, 1 - t, 1.0, -1.0


def gvp(t):
    """sin(pi t / 2) x + cos(pi t / 2) n, and its slope."""
    sin, cos = (math.pi / 2 * t).sin(), (math.pi / 2 * t).cos()
    return sin, cos, math.pi / 2 * cos, -math.pi / 2 * sin


def ours(index):
    """Our path at t - 1, divided by its r."""
    a, b, c, d = straight((index + 1) / 1000)
    r = (a**2 + b**2).sqrt()
    return a / r, b / r, c, d


def edm_inside(label):
    """F of D = c_skip y + c_out F, of y = x + sigma n, seeing c_in y."""
    sigma, of_data = (4 * label).exp(), 0.5
    whole = sigma**2 + of_data**2
    c_skip, c_out, c_in = of_data**2 / whole, sigma * of_data / whole.sqrt(), 1 / whole.sqrt()
    return c_in, c_in * sigma, (1 - c_skip) / c_out, -c_skip * sigma / c_out


def v_denoiser(label):
    """The same with sigma_data = 1, and the sign of VDenoiser's c_out."""
    sigma = (label * math.pi / 2).tan()
    r = (sigma**2 + 1).sqrt()
    c_skip, c_out, c_in = 1 / r**2, -sigma / r, 1 / r
    return c_in, c_in * sigma, (1 - c_skip) / c_out, -c_skip * sigma / c_out


def cosine(index):
    """alpha x + sigma n at a whole step, and alpha n - sigma x."""
    t = np.arange(1001) / 1000
    bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    products = np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999))
    alpha_bar = torch.from_numpy(products)[index.round().long()]
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return alpha, sigma, -sigma, alpha


NETWORKS = {
    "ScoreFlow": Exact(ours),
    "flow_matching (Meta), CondOT": Exact(from_noise),
    "SiT, linear": Exact(from_noise),
    "SiT, GVP": Exact(gvp),
    "RectifiedFlow (Liu)": Exact(lambda label: from_noise(label / 999)),
    "torchcfm, `sigma=0`": Exact(from_noise, time_first=True),
    "SD3, also in diffusers": Exact(lambda label: straight(label / 1000)),
    "FLUX in diffusers": Exact(straight),
    "Lumina 2 in diffusers": Exact(from_noise),
    "EDM, inside D": Exact(edm_inside),
    "EDM, D itself": Exact(lambda sigma: (1.0, sigma, 1.0, 0.0)),
    "k-diffusion, inside VDenoiser": Exact(v_denoiser),
    "diffusers, v_prediction": Exact(cosine),
}
ROUNDING = 1e-11
"""1e-16 a number, over what it is divided by: a noise of 6e-5, at t = 0.001 of EDM's process."""


def made(net, line):
    """The Denoiser of a line of the page, given what the page gives."""
    namespace = {"__name__": "docs", "net": net}
    exec(GIVEN, namespace)
    model = eval(line, namespace).in_precision("float64")
    if not model.asking.integer_times:
        model.t_min = 1e-3
    return model


def disagreement(model):
    """How far x_0 and eps are from the exact ones on our path, over all times: the largest."""
    t = TIMES[TIMES.round() == TIMES] if model.asking.integer_times else TIMES
    generator = torch.Generator().manual_seed(0)
    x, n = torch.randn(2, len(t), 1, 2, 2, dtype=torch.float64, generator=generator)
    x_t = model.sde.perturb(MEAN + STD * x, t, n)
    alpha, sigma = (each(t).view(-1, 1, 1, 1) for each in (model.sde.alpha, model.sde.sigma))
    offset = (x_t - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)
    found = model(x_t, t)
    errors = [found.x_0 - (MEAN + alpha * STD**2 * offset), found.eps - sigma * offset]
    return max(float(error.abs().max()) for error in errors)


def test_every_line_of_the_table_is_found():
    assert list(LINES) == list(NETWORKS)
    table = [row for row in PAGE.splitlines() if row.startswith("| ") and "`sf." in row]
    assert len(table) == len(LINES)


@pytest.mark.parametrize("name", LINES)
def test_a_line_gives_the_exact_denoiser(name):
    assert disagreement(made(NETWORKS[name], LINES[name])) < ROUNDING


TURNED = (
    ("minus,", "net,"),  # the sign
    ("ScoreModel(net,", "ScoreModel(minus,"),
    (": -net(", ": net("),
    ("-2 / math.pi * net", "2 / math.pi * net"),
    ("1 - t / 1000", "t / 1000"),  # the direction of time
    ("label=lambda t: t", "label=lambda t: 1000 - t"),
    ("1 - 2 / math.pi *", "2 / math.pi *"),
    ("label=lambda t: 2 /", "label=lambda t: 1 - 2 /"),
    ("edm.sigma(t).log()", "-edm.sigma(t).log()"),
    ("label=edm.sigma", "label=lambda t: 1 / edm.sigma(t)"),
    (", **raw", ""),  # what the network sees
    (', "u"', ', "v"'),  # the other velocity
    (', "v"', ', "u"'),
    ("999 *", "1000 *"),  # the label
    ("lambda t: t,", "lambda t: t - 1,"),
    ("data_std=0.5", "data_std=1.0"),
)


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_turned_round_does_not(name):
    turned = {LINES[name].replace(right, wrong) for right, wrong in TURNED} - {LINES[name]}
    assert len(turned) >= 2
    for line in turned:
        assert not disagreement(made(NETWORKS[name], line)) < 1e-4, line


def test_a_network_runs_by_another_clock():
    namespace = {"__name__": "docs", "net": Exact(straight)}
    exec(GIVEN + ON_A_VP, namespace)
    model = namespace["model"].in_precision("float64")
    model.t_min = 1e-3
    assert disagreement(model) < ROUNDING
    model.sde = sf.VPSDE.linear(1000)
    assert disagreement(model) > 1e-2
