"""Ancestral sampling against an independent DDPM: diffusers' scheduler, step by step."""

import pytest
import torch

from samplers import Ancestral, Clipped
from sde.noise import Noise, Stream
from sde.prediction import predict
from sde.vp import VPSDE

diffusers = pytest.importorskip("diffusers")

VARIANCES = {"posterior": "fixed_small", "beta": "fixed_large"}
SHAPE = (3, 4, 4)


def scheduler(variance: str, clip: bool):
    """DDPMScheduler with its tables in float64, so that nothing but the formulas is compared."""
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        variance_type=VARIANCES[variance],
        clip_sample=clip,
    )
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(theirs.betas.double(), betas, rtol=1e-6, atol=0)
    theirs.betas, theirs.alphas = betas, 1 - betas
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    return theirs


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", VARIANCES)
def test_a_step_is_diffusers_step(variance, clip, steps, inject):
    sde, theirs = VPSDE.linear(1000), scheduler(variance, clip)
    theirs.set_timesteps(steps)
    stride = 1000 // steps
    x, eps = torch.randn(
        2, 4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    for index in sorted({0, stride, 10 * stride, 500, 980, 1000 - stride}):
        generator = torch.Generator().manual_seed(index)
        z = torch.randn(4, *SHAPE, dtype=torch.float64, generator=generator)
        expected = theirs.step(
            eps, index, x, generator=torch.Generator().manual_seed(index)
        ).prev_sample

        def denoiser(x_t, t):
            return predict(sde, x_t, t, "eps", eps)

        t, s = torch.tensor([index + 1, max(index + 1 - stride, 0)], dtype=torch.float64)
        ours = Ancestral(variance).step(
            Clipped(denoiser) if clip else denoiser,
            sde,
            x,
            t,
            s,
            inject(4, {(Stream.PREDICTOR, 0): z}),
        )
        # 1 - alpha_bar, of which theirs makes a quotient, has lost 4 digits at index 0; and where
        # the posterior's variance is zero theirs adds 1e-10 z (it is clamped at 1e-20)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_perturbing_is_diffusers_add_noise():
    sde, theirs = VPSDE.linear(1000), scheduler("beta", clip=False)
    index = torch.arange(0, 1000, 37)
    noise = Noise.of(0, 0, len(index))
    x_0, eps = noise.normal(Stream.DATA, SHAPE), noise.normal(Stream.TRAIN_EPS, SHAPE)
    expected = theirs.add_noise(x_0, eps, index)
    ours = sde.perturb(x_0, (index + 1).double(), eps)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
