"""What `benchmarks.gpu.check` compares: computed on a device, and as the CPU has it.

Each function is called with the device, and with the CPU as the reference, whose networks are in
float32 and whose kernels are torch's own in float64.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

from scoreflow.certificate.certificate import awake
from scoreflow.certificate.noise_vs_score_loss import objectives
from scoreflow.configs import digits
from scoreflow.data.levels import dequantize
from scoreflow.factory import assembly
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.likelihood import build_solver
from scoreflow.factory.sampling import build_drawing
from scoreflow.generation.generate import draw_samples
from scoreflow.likelihood.flow_likelihood import log_likelihood, to_bits_per_dim
from scoreflow.models.dropout import dropout
from scoreflow.models.kernels.fused import norm_act_drop
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.runtime.compiling import precision_on
from scoreflow.sde.noise import Noise, Stream, kernels
from scoreflow.storage.atomic_files import Json
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import Trainer

IMAGES, STEPS = 8, 6
RATE = 1e-4
"""Learning rate: Adam's first steps move each weight by it, even if its gradient is rounding."""
SAMPLERS = ("ancestral", "ddim", "dpm", "unipc", "ode")
EVENT, LEVELS = (1, 8, 8), 17
CERTIFIED = 64
"""Images of the certificate's trainings."""

BITS = "whole numbers: nothing is rounded"
LOGS = "each device's log, sin and cos, in float64"
SUMS = "float32 products are summed in another order"
SAMPLED = f"{SUMS}, which the steps of a sampler raise"
SOLVED = f"{SUMS}, which may add or drop a step of the solver"
ADAM = f"{SUMS}, and Adam divides a gradient by its size, however small"
KERNEL = "ours against torch's own in float64: float32 sums, rounded once"
HALVES = {
    "tf32": "products of 10 bits of mantissa, over the layers",
    "bfloat16": "8 bits of mantissa, over the layers",
    "float16": "11 bits of mantissa, over the layers",
}
"""Precision -> why it differs from float32."""
GRADIENTS = tuple(f"gradient of {name}" for name in ("input", "weight", "bias", "embedding"))


@dataclass(frozen=True)
class Figure:
    """A computed value.

    Attributes:
        value: on the CPU.
        allowed: the largest difference from the reference.
        why: what may differ, and from what.
    """

    value: Tensor
    allowed: float
    why: str


Found = dict[str, Figure]


def precisions(device: torch.device) -> tuple[str, ...]:
    """Precisions of a network that are measured: those that a device computes in.

    TF32 is a GPU's of compute capability 8.0 and later; older ones emulate bfloat16, for which
    nothing is compiled there, and have float16.
    """
    if precision_on("tf32", device) == "tf32":
        return ("float32", "tf32", "bfloat16")
    return ("float32", "float16" if device.type == "cuda" else "bfloat16")


def config_of(**switches: object) -> ConfigDict:
    """The digits' config, in small; `switches` are keys of its training."""
    config = digits.get_config()
    plain = {"compile": False, "precision": "float32", "channels_last": False}
    config.training.update(batch_size=16, warmup_steps=0, **{**plain, **switches})
    config.sampling.update(steps=20, tolerance=1e-5)
    config.likelihood.update(method="dopri5", tolerance=1e-5, tolerance_bits=1e-5)
    return config


def model_of(experiment: Experiment, precision: str = "float32") -> ScoreModel:
    """Its untrained network as a Denoiser, with outputs that are not near 0."""
    network = awake(experiment.network.cpu()).to(experiment.device).eval()
    network = network.double() if precision == "float64" else network
    return experiment.model.with_network(network).in_precision(precision)


def noise(device: torch.device, reference: bool) -> Found:
    """Addressed noise: uniforms, normals, signs, and the units that drop."""
    drawn = Noise.of(7, 2**32 - IMAGES, 2**32, device).at(3)
    words = drawn.words(Stream.TRAIN_DROPOUT, (2,))
    dropped = dropout(torch.ones(IMAGES, *EVENT, device=device), words, 0.3)
    found = {
        "words of the addressed noise": (drawn.words(Stream.TRAIN_EPS, EVENT), 0.0, BITS),
        "uniforms": (drawn.uniform(Stream.TRAIN_EPS, EVENT), 0.0, BITS),
        "normals": (drawn.normal(Stream.TRAIN_EPS, EVENT), 1e-12, LOGS),
        "units that drop": (dropped, 0.0, BITS),
    }
    return {name: Figure(value.cpu(), *more) for name, (value, *more) in found.items()}


def our_kernels(device: torch.device, reference: bool) -> Found:
    """GroupNorm + SiLU + dropout, there and back, as an operation of ours; and whether it is one.

    Of 48 channels in 4 groups, with what an embedding adds, channels last and first. Nothing of a
    CPU, which has no kernels of ours: that would be torch compared with torch.
    """
    if device.type == "cpu" and not reference:
        return {}
    fused = reference or kernels.fused_on(device)
    found = {
        "our kernels are used on a GPU": Figure(
            torch.tensor(float(fused)), 0.0, kernels.lacking() or "Triton builds them"
        )
    }
    if not fused:
        return found
    for dtype, allowed in {torch.float32: 1e-5, torch.bfloat16: 2.0**-7}.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            of = f"{str(dtype).removeprefix('torch.')}, {str(layout).removeprefix('torch.')}"
            for name, value in _norm(device, dtype, layout, reference).items():
                relative = value.double().cpu() / value.double().abs().max().cpu()
                found[f"norm, SiLU, dropout: {name}, {of}"] = Figure(relative, allowed, KERNEL)
    return found


def _norm(
    device: torch.device, dtype: torch.dtype, layout: torch.memory_format, by_torch: bool
) -> dict[str, Tensor]:
    """The answer and the gradients of one layer, by our operation or by torch's in float64."""
    generator = torch.Generator().manual_seed(0)
    h, dy = torch.randn(2, 3, 48, 8, 8, generator=generator).to(dtype)
    weight, bias = torch.randn(2, 48, generator=generator)
    told = torch.randn(3, 48, generator=generator).to(dtype)
    words = Noise.of(1, 0, 3).words(Stream.TRAIN_DROPOUT, (2,))
    norm = nn.GroupNorm(4, 48, eps=1e-6)
    norm.load_state_dict({"weight": weight, "bias": bias})
    h = h.contiguous(memory_format=layout)
    if by_torch:
        norm, h, told, dy = norm.double(), h.double(), told.double(), dy.double()
        given = [h.requires_grad_(), *norm.parameters(), told.requires_grad_()]
        y = dropout(F.silu(norm(h + told[:, :, None, None])), words, 0.25)
    else:
        norm, h, told, words = (each.to(device) for each in (norm, h, told, words))
        given = [h.requires_grad_(), *norm.parameters(), told.requires_grad_()]
        y = norm_act_drop(norm, h, told, words, 0.25)
    grads = torch.autograd.grad(y, given, dy.to(y.device).contiguous(memory_format=layout))
    return dict(zip(("answer", *GRADIENTS), (y.detach(), *grads), strict=True))


def samples(device: torch.device, reference: bool) -> Found:
    """Images of some samplers, in [-1, 1]; by DDIM in each precision, and in float64."""
    found = {}
    for name in SAMPLERS:
        images = _drawn(device, name, "float32")
        found[f"samples, {name}"] = Figure(images, 1e-4, SAMPLED)
    for precision, allowed in {"tf32": 0.05, "bfloat16": 0.2, "float16": 0.05}.items():
        if precision in precisions(device) or reference:
            images = _drawn(device, "ddim", "float32" if reference else precision)
            named = f"samples, ddim, {precision} against float32"
            found[named] = Figure(images, allowed, HALVES[precision])
    why = "float64 products are summed in another order"
    found["samples, ddim, float64"] = Figure(_drawn(device, "ddim", "float64"), 1e-9, why)
    return found


def _drawn(device: torch.device, name: str, precision: str) -> Tensor:
    experiment = assembly.experiment(config_of(), device)
    model = model_of(experiment, precision)
    drawing = build_drawing(experiment.config, name, model, experiment.data)
    with arithmetic(precision), torch.no_grad():
        drawn = Noise.of(0, 0, IMAGES, device)
        return draw_samples(drawing, model.sde, drawn, EVENT, IMAGES, name).cpu()


def likelihood(device: torch.device, reference: bool) -> Found:
    """Bits/dim of test images: in float32 without TF32 whatever a run trains in."""
    experiment = assembly.experiment(config_of(), device)
    model, data, drawn = model_of(experiment), experiment.data, Noise.of(0, 0, IMAGES, device)
    x = dequantize(data.test[:IMAGES], drawn.uniform(Stream.TRAIN_DEQUANTIZE, EVENT), LEVELS)
    solver = build_solver(experiment.config)
    with arithmetic("float32"):
        solved = log_likelihood(model, model.sde, x, model.t_min, drawn, solver)
    bits = to_bits_per_dim(solved.log_prob, x[0].numel(), LEVELS)
    return {"likelihood, bits/dim": Figure(bits.cpu(), 1e-4, SOLVED)}


def trained(device: torch.device, **switches: object) -> tuple[Tensor, Tensor]:
    """Losses and gradient norms of some steps with dropout, and the first step's gradient."""
    config = config_of(**switches)
    config.model.dropout, config.training.learning_rate = 0.2, RATE
    experiment = assembly.experiment(config, device)
    network, settings = experiment.network, experiment.settings
    network.load_state_dict(awake(network.cpu()).state_dict())
    network.to(device)
    trainer = Trainer(
        experiment.model,
        network,
        EMA(network, settings.ema_decay),
        experiment.data,
        experiment.objective,
        settings,
        0,
    )
    first = trainer.advance(1)
    gradient = torch.cat([weight.grad.flatten() for weight in network.parameters()]).cpu()
    return torch.cat([first, trainer.advance(STEPS - 1)]).cpu(), gradient


def training(device: torch.device, reference: bool) -> Found:
    """Losses and gradient of float32 steps, and the first loss in less."""
    rows, gradient = trained(device)
    found = {
        "training, first loss and gradient norm": Figure(rows[0], 1e-4, SUMS),
        f"training, losses of {STEPS} steps": Figure(rows[:, 0], 1e-3, ADAM),
        "training, clipped gradient": Figure(gradient, 1e-5, SUMS),
    }
    for precision, allowed in {"tf32": 5e-3, "bfloat16": 5e-2, "float16": 5e-3}.items():
        if precision in precisions(device) or reference:
            loss = rows if reference else trained(device, precision=precision)[0]
            named = f"training, first loss, {precision} against float32"
            found[named] = Figure(loss[:1, 0], allowed, HALVES[precision])
    return found


def without_our_kernels(device: torch.device) -> tuple[Tensor, Tensor]:
    """`trained`, by torch's own operations."""
    with mock.patch.object(kernels, "FUSED", set[str]()):
        return trained(device)


def certified(device: torch.device) -> Iterable[Json]:
    """Rows of the certificate in which a network is asked in a precision, against float64.

    It has no tolerances for float16.
    """
    for precision in precisions(device):
        if precision == "float16":
            continue
        experiment = assembly.experiment(config_of(), device)
        model = model_of(experiment, precision)
        u = Noise.of(0, 0, CERTIFIED, device).uniform(Stream.TRAIN_DEQUANTIZE, EVENT)
        x_0 = dequantize(experiment.data.test[:CERTIFIED], u, LEVELS)
        for identity in objectives(model, x_0, train_steps=10, batch_size=4):
            if precision in identity.name or precision == "float32":
                shown = identity.residual if math.isfinite(identity.residual) else None
                yield {
                    "name": f"certificate: {identity.name}",
                    "difference": shown,
                    "tolerance": identity.tolerance,
                    "passed": identity.passed,
                    "why": identity.basis,
                }
