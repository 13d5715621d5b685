"""Training step and forward pass of DDPM's CIFAR-10 U-Net (35.7M parameters): ours, diffusers'.

Ours is what --mode train does with configs/cifar10.py: addressed noise, the loss, clipping, fused
Adam, the moving average. The reference is diffusers' `UNet2DModel` of the same layout in the loop
of their training example: `DDPMScheduler.add_noise`, mean squared error, clipping, torch's AdamW,
`EMAModel`. Both train on the same random images, which lie on the device.
"""

import importlib.util
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

from benchmarks.measure import CHANNELS, Steps, say
from scoreflow.configs import cifar10
from scoreflow.data.dataset import Data
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.model import build_model, build_network
from scoreflow.factory.training import build_objective, build_training, compiled
from scoreflow.models.score_model import HALF, arithmetic
from scoreflow.runtime.compiling import precision_on
from scoreflow.runtime.distributed import Shard
from scoreflow.storage.atomic_files import Json
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import ALONE, Trainer

IMAGES = 512
Made = tuple[Steps, Steps, nn.Module]
"""What runs so many training steps, and so many forward passes, and the network."""
PLAIN: Json = {"precision": "float32", "compile": False, "channels_last": False}
"""Each switch by its name, as what a config has by default depends on the device."""
BEST: Json = {"precision": "bfloat16", "compile": True, "channels_last": True}
VARIANTS: dict[str, Json] = {
    "float32": PLAIN,
    "channels_last": {**PLAIN, "channels_last": True},
    "compiled": {**PLAIN, "compile": True},
    "tf32": {**PLAIN, "precision": "tf32"},
    "bfloat16": {**PLAIN, "precision": "bfloat16"},
    "half_last": {**PLAIN, "precision": "bfloat16", "channels_last": True},
    "gpu": {"precision": "tf32", "compile": True, "channels_last": True},
    "best": BEST,
    "graphs": {**BEST, "compile_mode": "reduce-overhead"},
    "float16": {**PLAIN, "precision": "float16"},
    "float16_last": {**PLAIN, "precision": "float16", "channels_last": True},
    "best16": {**BEST, "precision": "float16"},
    "graphs16": {**BEST, "precision": "float16", "compile_mode": "reduce-overhead"},
}
IN_FLOAT16 = {
    "bfloat16": "float16",
    "half_last": "float16_last",
    "best": "best16",
    "graphs": "graphs16",
}
"""Variant in bfloat16 -> the same in float16."""


def half_on(device: torch.device) -> str:
    """The half precision that is measured on a device: float16 on a GPU before Ampere.

    Such a GPU (compute capability below 8.0) emulates bfloat16, and nothing is compiled for it.
    """
    older = device.type == "cuda" and precision_on("tf32", device) != "tf32"
    return "float16" if older else "bfloat16"


def variants_in(half: str, variants: Sequence[str]) -> list[str]:
    """Variants in the half precision that a device has; TF32 comes with bfloat16."""
    if half == "bfloat16":
        return list(variants)
    return [IN_FLOAT16.get(name, name) for name in variants if name != "tf32"]


def images(device: torch.device, side: int = 32, count: int = IMAGES) -> Data:
    """Random RGB images of 256 levels, on the device."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    levels = levels.to(device)
    return Data("random", levels, levels[:16], 256, None, None)


def trainer_of(config: ConfigDict, data: Data, shard: Shard = ALONE) -> Trainer:
    """A trainer of this config on these data, before its first step."""
    network, settings = build_network(config, data), build_training(config, data.train.device)
    called = compiled(network, settings)
    model = build_model(config, called, build_sde(config))
    objective, ema = build_objective(config), EMA(network, settings.ema_decay)
    return Trainer(model, network, ema, data, objective, settings, 0, shard)


def ours(device: torch.device, batch: int, variant: str, channels: int = CHANNELS) -> Made:
    """Functions that run so many training steps and forward passes of ours, and the network."""
    config = cifar10.get_config()
    config.model.channels, config.training.batch_size = channels, batch
    config.training.update(VARIANTS[variant])
    trainer = trainer_of(config, images(device))
    model = trainer.model
    x = torch.randn(batch, 3, 32, 32, device=device, dtype=torch.float64)
    t = torch.full((batch,), 500.0, device=device, dtype=torch.float64)

    def forward(count: int) -> None:
        with torch.no_grad(), arithmetic(config.training.precision):
            for _ in range(count):
                _begin_step()
                model(x, t)

    return trainer.advance, forward, trainer.network


class DiffusersLoop:
    """Diffusers' network in the loop of their training example.

    Args:
        device: where it runs.
        batch: images a step.
        variant: one of `VARIANTS`.
        channels: of the network.
    """

    def __init__(
        self, device: torch.device, batch: int, variant: str, channels: int = CHANNELS
    ) -> None:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        options = VARIANTS[variant]
        torch.manual_seed(0)
        self.precision = options.get("precision", "float32")
        self.channels_last = bool(options.get("channels_last"))
        self.network = self.called = _published(device, self.channels_last, channels)
        if options.get("compile"):
            mode = options.get("compile_mode", "default")
            self.called = torch.compile(self.network, mode=mode)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=2e-4)
        # which scales float16's losses, and is idle else
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        self.ema = EMAModel(self.network.parameters(), decay=0.9999)
        self.ema.to(device)
        self.scheduler, self.levels = DDPMScheduler(1000), images(device).train
        self.batch, self.device = batch, device
        self.x = torch.randn(batch, 3, 32, 32, device=device)
        self.t = torch.full((batch,), 500, device=device)

    def train(self, count: int) -> None:
        """Take so many training steps."""
        self.network.train()
        with arithmetic(self.precision):
            for _ in range(count):
                _begin_step()
                self._train_once()

    def forward(self, count: int) -> None:
        """Evaluate the network so many times on the same noise."""
        with torch.no_grad(), arithmetic(self.precision):
            for _ in range(count):
                _begin_step()
                self._predict(self.x, self.t)

    def _predict(self, x: Tensor, t: Tensor) -> Tensor:
        half = HALF.get(self.precision)
        with torch.autocast(self.device.type, half or torch.bfloat16, enabled=half is not None):
            return self.called(x, t, return_dict=False)[0]

    def _train_once(self) -> None:
        rows = torch.randint(0, IMAGES, (self.batch,), device=self.device)
        clean = self.levels[rows].float() / 127.5 - 1
        if self.channels_last:
            clean = clean.contiguous(memory_format=torch.channels_last)
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (self.batch,), device=self.device)
        eps = self._predict(self.scheduler.add_noise(clean, noise, t), t)
        loss = F.mse_loss(eps.float(), noise)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())


def theirs(device: torch.device, batch: int, variant: str, channels: int = CHANNELS) -> Made:
    """Functions that run so many training steps and forward passes of diffusers, and the network.

    Args:
        device: where it runs.
        batch: images a step.
        variant: one of `VARIANTS`.
        channels: of the network.
    """
    loop = DiffusersLoop(device, batch, variant, channels)
    return loop.train, loop.forward, loop.network


def _published(device: torch.device, channels_last: bool, channels: int) -> nn.Module:
    """DDPM's CIFAR-10 network as diffusers builds it."""
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=32,
        block_out_channels=(channels, 2 * channels, 2 * channels, 2 * channels),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        dropout=0.1,
        downsample_padding=0,
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
    ).to(device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def _begin_step() -> None:
    """Mark that the outputs of CUDA graphs may be overwritten, as `Trainer` does.

    Once one contender has marked a step, torch infers the steps of no other by itself.
    """
    torch.compiler.cudagraph_mark_step_begin()


MAKERS = {"ours": ours, "diffusers": theirs}


def present() -> list[str]:
    """Those of `MAKERS` that can run here; says a line if diffusers' rows are left out."""
    if importlib.util.find_spec("diffusers"):
        return list(MAKERS)
    say("diffusers is not installed: its rows are left out (pip install diffusers adds them)")
    return ["ours"]
