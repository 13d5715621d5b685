"""The contenders: a training step and a forward pass of DDPM's CIFAR-10 U-Net (35.7M parameters).

Ours is what --mode train does with configs/cifar10.py: addressed noise, the loss, clipping, fused
Adam, the moving average. Theirs is diffusers' `UNet2DModel` of the same layout in the loop of
their training example: `DDPMScheduler.add_noise`, mean squared error, clipping, torch's AdamW,
`EMAModel`. Both see the same random images, which lie on the device.
"""

import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

from benchmarks.measure import Steps
from scoreflow import factory
from scoreflow.configs import cifar10
from scoreflow.data.dataset import Data
from scoreflow.models.score_model import arithmetic
from scoreflow.runtime.distributed import Shard
from scoreflow.storage.atomic_files import Json
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import ALONE, Trainer

IMAGES = 512
VARIANTS: dict[str, Json] = {
    "float32": {"channels_last": False},
    "channels_last": {"channels_last": True},
    "compiled": {"compile": True, "channels_last": False},
    "tf32": {"precision": "tf32", "channels_last": False},
    "bfloat16": {"precision": "bfloat16", "channels_last": False},
    "best": {"precision": "bfloat16", "compile": True, "channels_last": True},
    "graphs": {
        "precision": "bfloat16",
        "compile": True,
        "channels_last": True,
        "compile_mode": "reduce-overhead",
    },
}


def images(device: torch.device, side: int = 32, count: int = IMAGES) -> Data:
    """Random ones of three colours, which lie on the device."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    levels = levels.to(device)
    return Data("random", levels, levels[:16], 256, None, None)


def trainer_of(config: ConfigDict, data: Data, shard: Shard = ALONE) -> Trainer:
    """A training of this config on these data, from its start."""
    network, settings = factory.build_network(config, data), factory.build_training(config)
    called = factory.compiled(network, settings)
    model = factory.build_model(config, called, factory.build_sde(config))
    objective, ema = factory.build_objective(config), EMA(network, settings.ema_decay)
    return Trainer(model, network, ema, data, objective, settings, 0, shard)


def ours(device: torch.device, batch: int, variant: str) -> tuple[Steps, Steps, nn.Module]:
    """Training steps, forward passes, and the network."""
    config = cifar10.get_config()
    config.training.batch_size = batch
    config.training.update(VARIANTS[variant])
    trainer = trainer_of(config, images(device))
    model = trainer.model
    x = torch.randn(batch, 3, 32, 32, device=device, dtype=torch.float64)
    t = torch.full((batch,), 500.0, device=device, dtype=torch.float64)

    def forward(count: int) -> None:
        with torch.no_grad(), arithmetic(config.training.precision):
            for _ in range(count):
                _next()
                model(x, t)

    return trainer.advance, forward, trainer.network


def theirs(device: torch.device, batch: int, variant: str) -> tuple[Steps, Steps, nn.Module]:
    """The same of diffusers."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    asked = VARIANTS[variant]
    torch.manual_seed(0)
    network = _published(device, bool(asked.get("channels_last")))
    called: nn.Module = network
    if asked.get("compile"):
        called = torch.compile(network, mode=asked.get("compile_mode", "default"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4)
    ema = EMAModel(network.parameters(), decay=0.9999)
    ema.to(device)
    scheduler, levels = DDPMScheduler(1000), images(device).train
    half = asked.get("precision") == "bfloat16"

    def answer(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return called(x, t, return_dict=False)[0]

    def step(count: int) -> None:
        network.train()
        with arithmetic(asked.get("precision", "float32")):
            for _ in range(count):
                _next()
                one_step()

    def one_step() -> None:
        rows = torch.randint(0, IMAGES, (batch,), device=device)
        clean = levels[rows].float() / 127.5 - 1
        if asked.get("channels_last"):
            clean = clean.contiguous(memory_format=torch.channels_last)
        noise, t = torch.randn_like(clean), torch.randint(0, 1000, (batch,), device=device)
        loss = F.mse_loss(answer(scheduler.add_noise(clean, noise, t), t).float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())

    x = torch.randn(batch, 3, 32, 32, device=device)
    t = torch.full((batch,), 500, device=device)

    def forward(count: int) -> None:
        with torch.no_grad(), arithmetic(asked.get("precision", "float32")):
            for _ in range(count):
                _next()
                answer(x, t)

    return step, forward, network


def _published(device: torch.device, channels_last: bool) -> nn.Module:
    """DDPM's CIFAR-10 network, by diffusers."""
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
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


def _next() -> None:
    """Nothing that a CUDA graph has answered is needed any more; `Trainer` says so itself.

    Once one contender has said so, torch takes it from no other that a new step has begun.
    """
    torch.compiler.cudagraph_mark_step_begin()


MAKERS = {"ours": ours, "diffusers": theirs}
