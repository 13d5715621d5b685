"""Every block of docs/networks.md, run on what the original codebases answered.

Their architectures are not here. In a network's place stands a table of its own golden answers,
which knows the golden inputs and labels alone: that a block gets through it at all shows that its
input scale, range and label are the original's, and the estimates that its output is read right.
"""

import copy
import json
import re
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import scoreflow as sf

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
PAGE = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MOST_LINES, MOST_WORDS = 8, 650


def golden_of(name):
    with np.load(FIXTURES / name / "golden.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def block(having):
    """The one block of the page with a text in it."""
    (found,) = (code for code in BLOCKS if having in code)
    return found


def made(*having, **given):
    """The ScoreModel that blocks make of these names, the blocks that they rest on first."""
    namespace = {"__name__": "docs", **given}
    for text in ("import scoreflow", *having):
        exec(block(text), namespace)
    return namespace["model"]


class Answers(nn.Module):
    """A table of one batch: the original's answer to its golden question, and to no other."""

    def __init__(self, x, label, answer, classes=None):
        super().__init__()
        self.x, self.label, self.answer, self.classes = x, label, answer, classes

    def forward(self, x, label, class_cond=None):
        torch.testing.assert_close(x, self.x.to(x.dtype), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(label, self.label.to(x.dtype), rtol=1e-6, atol=0)
        if self.classes is not None:
            assert torch.equal(class_cond, self.classes)
        return self.answer.to(x.dtype)


def agrees(model, golden, t, unit=False):
    """x_0 and eps of the golden rows to 1e-5 of each row's largest value."""
    x_t, x_0 = golden["x_t"].double(), golden["x0"].double()
    x_t, x_0 = (2 * x_t - 1, 2 * x_0 - 1) if unit else (x_t, x_0)
    found = model(x_t, t)
    for ours, theirs in ((found.x_0, x_0), (found.eps, golden["eps"].double())):
        error = (ours - theirs).abs().flatten(1).amax(1) / theirs.abs().flatten(1).amax(1)
        assert float(error.max()) < 1e-5, error


def times(sde, ratio):
    """Times at which sigma / alpha has these values."""
    return sde.time(ratio.double().atan())


K_DIFFUSION = golden_of("k_diffusion/image_v1_fp16")


def test_k_diffusion_by_its_inner_network():
    g = K_DIFFUSION
    inner = Answers(g["network_input"], g["sigma_given"], g["raw"])
    model = made("denoiser", "class Inner(", denoiser=nn.Identity(), inner=inner)
    agrees(model, g, times(model.sde, g["sigma"]))


def test_k_diffusion_and_edm_by_their_denoiser():
    g = K_DIFFUSION
    model = made("denoiser", denoiser=Answers(g["x_t"], g["sigma_given"], g["x0"]))
    found = model(g["x_t"].double(), times(model.sde, g["sigma"]))
    torch.testing.assert_close(found.x_0, g["x0"], rtol=0, atol=1e-6)
    # D has the digits of float32, and eps is a difference over sigma
    error = (found.eps - g["eps"]).abs().flatten(1).amax(1)
    assert bool((error < 1e-5 + 3e-7 / g["sigma"]).all()), error


def test_k_diffusion_with_classes():
    g = golden_of("k_diffusion/transformer_v2_cond")
    classes = g["class_labels"]
    inner = Answers(g["network_input"], g["sigma_given"], g["raw"], classes)
    model = made("denoiser", "class InnerOfClasses", denoiser=nn.Identity(), inner=inner)
    assert int((classes == 4).sum()) > 0  # the class that stands for none
    ours = torch.where(classes == 4, -1, classes)
    agrees(model.labelled(ours), g, times(model.sde, g["sigma"]))
    inner.classes = torch.full_like(classes, 4)
    model(g["x_t"].double(), times(model.sde, g["sigma"]))  # and no class at all is that one


def test_lucidrains():
    folder = FIXTURES / "lucidrains" / "pred_v_sigmoid"
    g = golden_of("lucidrains/pred_v_sigmoid")
    state = torch.load(folder / "model-1.pt", weights_only=True)["ema"]
    diffusion = nn.Module()
    diffusion.register_buffer("betas", state["ema_model.betas"])
    diffusion.model = Answers(g["x_t"], g["t"], g["raw"])
    model = made("diffusion.betas", diffusion=diffusion)
    agrees(model, g, g["t"].double() + 1)


def test_a_score_network_of_images_in_0_1():
    g = golden_of("score_sde/ve_ncsnpp_continuous")
    # what estimates are golden of: its float32 is 2e-5 off where its Fourier features turn fast
    network = Answers(g["x_t"], g["label"], g["raw64"])
    model = made("score_network", score_network=network).in_precision("float64")
    agrees(model, g, times(model.sde, 2 * g["sigma"]), unit=True)


def test_diffusers():
    g = golden_of("diffusers/ddpm")
    unet = diffusers.UNet2DModel.from_pretrained(FIXTURES / "diffusers" / "ddpm", subfolder="unet")
    model = made("sde = sf.VPSDE.linear(1000)\nmodel", unet=unet.eval().requires_grad_(False))
    agrees(model, g, g["t"].double() + 1)


def test_hugging_face_with_classes():
    g = golden_of("diffusers/class_v")
    folder = FIXTURES / "diffusers" / "class_v"
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    model = made("class WithClasses", unet=unet.eval().requires_grad_(False))
    agrees(model.labelled(g["class_labels"].long()), g, g["t"].double() + 1)


class ExactOfUnitImages(nn.Module):
    """The exact eps of pixels N(0.3, 0.01) in [0, 1], by a VP chain on those."""

    def forward(self, y, index):
        own = sf.VPSDE.linear(1000)
        t = index.double() + 1
        alpha, variance = (each(t).view(-1, 1, 1, 1) for each in (own.alpha, own.variance))
        return (variance.sqrt() * (y - 0.3 * alpha) / (0.01 * alpha**2 + variance)).to(y.dtype)


def test_a_vp_of_images_in_0_1():
    """In [-1, 1] the pixels are N(-0.4, 0.04): the denoiser must be that Gaussian's."""
    model = made("import Rescaled", network_of_unit_images=ExactOfUnitImages())
    model = model.in_precision("float64")
    t = torch.tensor([1.0, 30.5, 500.0, 1000.0], dtype=torch.float64)
    x = torch.linspace(-2, 2, 4 * 12, dtype=torch.float64).view(4, 3, 2, 2)
    alpha, sigma = (each(t).view(-1, 1, 1, 1) for each in (model.sde.alpha, model.sde.sigma))
    eps = sigma * (x + 0.4 * alpha) / (0.04 * alpha**2 + sigma**2)
    torch.testing.assert_close(model(x, t).eps, eps, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.sde.time(model.sde.angle(t)), t, rtol=1e-12, atol=0)


class ExactVelocity(nn.Module):
    """The mean of noise - x given (1 - tau) x + tau noise, of pixels x ~ N(0.3, 0.04)."""

    def forward(self, x, tau):
        tau = tau.view(-1, 1, 1, 1)
        gain = (tau - 0.04 * (1 - tau)) / (0.04 * (1 - tau) ** 2 + tau**2)
        return gain * (x - 0.3 * (1 - tau)) - 0.3


def test_a_velocity():
    """The Gaussian's own denoiser, at pure noise too."""
    model = made("RectifiedSDE", velocity=ExactVelocity()).in_precision("float64")
    t = torch.tensor([1.0, 30.5, 500.0, 1000.0], dtype=torch.float64)
    x = torch.linspace(-2, 2, 4 * 12, dtype=torch.float64).view(4, 3, 2, 2)
    alpha, sigma = (each(t).view(-1, 1, 1, 1) for each in (model.sde.alpha, model.sde.sigma))
    offset = (x - 0.3 * alpha) / (0.04 * alpha**2 + sigma**2)
    found = model(x, t)
    torch.testing.assert_close(found.eps, sigma * offset, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.x_0, 0.3 + 0.04 * alpha * offset, rtol=1e-12, atol=1e-12)


def test_the_last_block_samples_and_measures():
    unet = diffusers.UNet2DModel.from_pretrained(FIXTURES / "diffusers" / "ddpm", subfolder="unet")
    images = golden_of("diffusers/ddpm")["image_levels"][:2]
    namespace = {"unet": unet.eval().requires_grad_(False), "images": images}
    for text in ("import scoreflow", "sde = sf.VPSDE.linear(1000)\nmodel", "sf.bits_per_dim"):
        # an untrained network is stiff: a trajectory that is good enough takes minutes
        rough = "probes=1, trajectory_tolerance=1e9, checked=0"
        exec(block(text).replace("probes=1", rough), namespace)
    assert namespace["x"].shape == (2, 3, 8, 8)
    assert bool(torch.isfinite(namespace["found"].bits_per_dim).all())


def test_a_wrong_label_or_input_does_not_get_through():
    """What the tables above are worth: each of these is refused."""
    g = K_DIFFUSION
    inner = Answers(g["network_input"], g["sigma_given"], g["raw"])
    model = made("denoiser", "class Inner(", denoiser=nn.Identity(), inner=inner)
    t = times(model.sde, g["sigma"])
    for wrong in ({"label": lambda t: t - 1}, {"input_scale": "none"}, {"data_std": 0.501}):
        asking = {"label": model.sde.sigma, "data_std": 0.5, **wrong}
        other = sf.ScoreModel(copy.copy(model.network), model.sde, "v", **asking)
        with pytest.raises(AssertionError):
            other(g["x_t"].double(), t)


def test_blocks_are_short_and_all_of_them_are_run_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(BLOCKS) == 11
    assert source.count("made(") + source.count("exec(block(") >= len(BLOCKS)
    for code in BLOCKS:
        assert len([line for line in code.splitlines() if line]) <= MOST_LINES, code
    words = [word for word in PAGE.split() if re.search(r"[A-Za-z0-9]", word)]
    assert len(words) <= MOST_WORDS, len(words)


def test_the_fixtures_say_what_they_are():
    for name in ("k_diffusion/image_v1_fp16", "lucidrains/pred_v_sigmoid"):
        about = json.loads((FIXTURES / name / "about.json").read_text(encoding="utf-8"))
        assert about["original"]["commit"]
