"""A training step of the CIFAR-10 DDPM U-Net (35.7M parameters), beside diffusers'.

    python -m benchmarks.training [--device cpu] [--batch 16] [--rounds 3] [--out DIR]
                                  [--variants float32,bfloat16,best]

Ours is what --mode train does with configs/cifar10.py: addressed noise, the loss, clipping, fused
Adam, the moving average. Theirs is diffusers' `UNet2DModel` of the same layout in the loop of
their training example: `DDPMScheduler.add_noise`, mean squared error, clipping, torch's AdamW,
`EMAModel`. Both see the same random images, which lie on the device.

Variants: float32; bfloat16 (autocast); best (bfloat16, compiled, channels-last). On a CPU only
float32 is run unless others are named.

Rounds interleave all of them, a step each (ten on a GPU) after two that are not counted; figures
are medians and middle halves, a ratio the median of the rounds' own. Peaks are measured in the
same run: a product of large matrices, and a 3 x 3 convolution of the network's size. The share of
them is the step's floating-point operations, as torch's counter has them, by time. Peak memory is
that of a process of its own (on a GPU what torch has allocated). Needs the `bench` extra.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from configs import cifar10
from scoreflow import build
from scoreflow.data import Data
from scoreflow.ema import EMA
from scoreflow.environment import environment
from scoreflow.files import Json, dumps, write_atomic
from scoreflow.model import arithmetic
from scoreflow.train import Trainer

IMAGES = 512
VARIANTS: dict[str, Json] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "best": {"precision": "bfloat16", "compile": True, "channels_last": True},
}
Steps = Callable[[int], None]


def images(device: torch.device) -> Data:
    """Random images of CIFAR-10's size."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    levels = levels.to(device)
    return Data("random", levels, levels[:16], 256, None, None)


def ours(device: torch.device, batch: int, variant: str) -> tuple[Steps, Steps, nn.Module]:
    """Training steps, forward passes, and the network."""
    config = cifar10.get_config()
    config.training.batch_size = batch
    config.training.update(VARIANTS[variant])
    data = images(device)
    network, sde = build.build_network(config, data), build.build_sde(config)
    settings = build.build_training(config)
    model = build.build_model(config, build.compiled(network, settings), sde)
    objective, ema = build.build_objective(config), EMA(network, settings.ema_decay)
    trainer = Trainer(model, network, ema, data, objective, settings, 0)
    x = torch.randn(batch, 3, 32, 32, device=device, dtype=torch.float64)
    t = torch.full((batch,), 500.0, device=device, dtype=torch.float64)

    def forward(count: int) -> None:
        with torch.no_grad(), arithmetic(settings.precision):
            for _ in range(count):
                model(x, t)

    return trainer.advance, forward, network


def theirs(device: torch.device, batch: int, variant: str) -> tuple[Steps, Steps, nn.Module]:
    """The same of diffusers."""
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    asked = VARIANTS[variant]
    torch.manual_seed(0)
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
    if asked.get("channels_last"):
        network = network.to(memory_format=torch.channels_last)
    called: nn.Module = torch.compile(network) if asked.get("compile") else network
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
        for _ in range(count):
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
        with torch.no_grad():
            for _ in range(count):
                answer(x, t)

    return step, forward, network


MAKERS = {"ours": ours, "diffusers": theirs}


def timed(steps: Steps, count: int, device: torch.device) -> float:
    """Seconds of one step."""
    _wait(device)
    start = time.perf_counter()
    steps(count)
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peaks(device: torch.device, batch: int, dtype: torch.dtype) -> Json:
    """The machine's own rates, in GFLOP/s: a product of matrices, and a convolution's."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(batch, 256, 32, 32, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if device.type == "cuda" else x
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
    work = {
        "matrix_product": (lambda: a @ b, 2 * side**3),
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 2 * batch * 1024 * 9 * 256**2),
    }
    found = {}
    with arithmetic("float32"), torch.no_grad():
        for name, (run, flops) in work.items():
            run()
            seconds = min(timed(lambda n, run=run: [run() for _ in range(n)], 5, device)
                          for _ in range(3))  # fmt: skip
            found[name] = flops / seconds / 1e9
    return found


def flops_of_an_image(network: nn.Module, device: torch.device) -> float:
    """Floating-point operations of a forward pass; a step has three times as many."""
    x, index = torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, index)
    return float(counter.get_total_flops())


def measured(device: torch.device, batch: int, variants: list[str], rounds: int) -> list[Json]:
    """A row of each contender and variant."""
    cases = [(who, variant) for variant in variants for who in MAKERS]
    made = {case: MAKERS[case[0]](device, batch, case[1]) for case in cases}
    count = 10 if device.type == "cuda" else 1
    for step, forward, _ in made.values():
        step(2)
        forward(2)
    times: dict[tuple[str, str], dict[str, list[float]]] = {
        case: {"step": [], "forward": []} for case in cases
    }
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for case, (step, forward, _) in made.items():
            times[case]["step"].append(timed(step, count, device))
            times[case]["forward"].append(timed(forward, count, device))
    network = made["ours", variants[0]][2]
    flops = flops_of_an_image(network.to(memory_format=torch.contiguous_format), device)
    rows = []
    for who, variant in cases:
        dtype = torch.bfloat16 if "precision" in VARIANTS[variant] else torch.float32
        rows.append(row(who, variant, times, batch, flops, peaks(device, batch, dtype)))
    return rows


def row(
    who: str,
    variant: str,
    times: dict[tuple[str, str], dict[str, list[float]]],
    batch: int,
    flops: float,
    peak: Json,
) -> Json:
    """What one contender's times come to."""
    step, forward = times[who, variant]["step"], times[who, variant]["forward"]
    low, middle, high = statistics.quantiles(step, n=4)
    rate = batch / middle
    return {
        "who": who,
        "variant": variant,
        "seconds": middle,
        "seconds_low": low,
        "seconds_high": high,
        "images_per_second": rate,
        "forward_images_per_second": batch / statistics.median(forward),
        "ratio": statistics.median(
            b / a for a, b in zip(step, times["diffusers", variant]["step"], strict=True)
        ),
        "share_of_matrix_product": 3 * flops * rate / 1e9 / peak["matrix_product"],
        "share_of_convolution": 3 * flops * rate / 1e9 / peak["convolution"],
        "gflop_an_image_forward": flops / 1e9,
        "peak_gflops": peak,
    }


def memory(who: str, variant: str, device: torch.device, batch: int) -> float:
    """Peak memory of a process that takes three steps, in GB."""
    command = [sys.executable, "-m", "benchmarks.training", f"--memory-of={who}:{variant}"]
    command += [f"--device={device}", f"--batch={batch}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(who: str, variant: str, device: torch.device, batch: int) -> None:
    """What `memory` asks a process of its own."""
    MAKERS[who](device, batch, variant)[0](3)
    _wait(device)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device) / 1e9)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def table(rows: list[Json]) -> str:
    """The rows in Markdown."""
    head = ["", "variant", "s a step", "images/s", "x diffusers", "forward images/s"]
    head += ["of matrix peak", "of convolution peak", "peak memory, GB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        spread = f"{r['seconds']:.3f} ({r['seconds_low']:.3f}-{r['seconds_high']:.3f})"
        cells = [r["who"], r["variant"], spread, f"{r['images_per_second']:.2f}"]
        cells += [f"{r['ratio']:.2f}", f"{r['forward_images_per_second']:.2f}"]
        cells += [f"{r['share_of_matrix_product']:.0%}", f"{r['share_of_convolution']:.0%}"]
        lines.append("| " + " | ".join([*cells, f"{r['memory_gb']:.2f}"]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description="a training step beside diffusers'")
    parser.add_argument("--device", default="")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", default="")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    device = build.build_device(asked.device)
    on_gpu = device.type == "cuda"
    batch = asked.batch or (128 if on_gpu else 16)
    if asked.memory_of:
        print_memory(*asked.memory_of.split(":"), device, batch)
        return
    variants = (asked.variants or (",".join(VARIANTS) if on_gpu else "float32")).split(",")
    if asked.rounds < 2 or batch < 1 or set(variants) - set(VARIANTS):
        parser.error(f"at least 2 rounds, a batch, and of variants {', '.join(VARIANTS)}")
    import diffusers

    rows = measured(device, batch, variants, asked.rounds)
    rows = [{**r, "memory_gb": memory(r["who"], r["variant"], device, batch)} for r in rows]
    where = {**environment(str(device)), "diffusers": diffusers.__version__}
    command = f"python -m benchmarks.training --device {device} --batch {batch}"
    command += f" --rounds {asked.rounds} --variants {','.join(variants)}"
    settings = {"batch": batch, "rounds": asked.rounds, "threads": torch.get_num_threads()}
    result = {"unit": "seconds a training step", "command": command, "settings": settings}
    result |= {"environment": where, "rows": rows}
    name = "cpu" if not on_gpu else where["device_name"].lower().replace(" ", "-")
    out = asked.out or Path("results") / name
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "training.json", dumps(result, "training", ValueError))
    text = f"# A training step of the CIFAR-10 DDPM U-Net\n\n    {command}\n\n{table(rows)}\n"
    write_atomic(out / "training.md", text.encode())
    print(table(rows))


if __name__ == "__main__":
    main()
