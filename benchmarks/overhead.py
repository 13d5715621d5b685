"""Overhead of a sampling step, its time without the network, against diffusers' loop.

    python -m benchmarks.overhead [--rounds 15] [--steps 100] [--out DIR]

Overhead is everything but the network: the loop, the method's arithmetic, its noise, the
conversions and the clipping. The network here returns its input, since microseconds would be lost
in a difference of milliseconds; the time of calling it is measured in the same round and
subtracted. Images have the size of the digits, 1 x 8 x 8. Ours keep their state in float64 and
draw addressed noise; diffusers' are float32 with a generator, and clip like ours where their
scheduler can.

Each round runs every loop once, one after another, on one thread, as these tensors are too small
for two. A figure is the median over rounds, its spread the quartiles; a ratio is the median of the
ratios within a round. A deterministic method is measured against diffusers' DDIM, one that draws
noise against its DDPM, and each against the scheduler of the same method. Needs the `test` extra.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measure
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.progress_bar import Progress
from scoreflow.samplers import (
    DDIM,
    DEIS,
    Ancestral,
    Clipped,
    DPMSolver,
    EulerMaruyama,
    Heun,
    ReverseDiffusion,
    Sampler,
    UniPC,
    grid,
    sample,
)
from scoreflow.sde import VPSDE, Noise
from scoreflow.storage.atomic_files import Json

COUNTS = (64, 1)
DETERMINISTIC, STOCHASTIC = "DDIMScheduler", "DDPMScheduler"
"""Diffusers' schedulers that a step is measured against."""
EVENT = (1, 8, 8)
Loop = Callable[[], None]


@dataclass(frozen=True)
class Method:
    """A sampler of ours, and the scheduler of the same method.

    Attributes:
        sampler: ours.
        stochastic: whether a step draws noise.
        namesake: name and settings of diffusers' scheduler of this method, if there is one.
    """

    sampler: Sampler
    stochastic: bool = False
    namesake: tuple[str, Json] | None = None


SDE_2M = {"algorithm_type": "sde-dpmsolver++"}
METHODS = {
    "ddim": Method(DDIM(), namesake=("DDIMScheduler", {})),
    "dpm": Method(DPMSolver(2), namesake=("DPMSolverMultistepScheduler", {})),
    "deis": Method(DEIS(2), namesake=("DEISMultistepScheduler", {})),
    "unipc": Method(UniPC(2), namesake=("UniPCMultistepScheduler", {})),
    "heun": Method(Heun(), namesake=("HeunDiscreteScheduler", {})),
    "ancestral": Method(Ancestral(), True, ("DDPMScheduler", {})),
    "dpm_sde": Method(DPMSolver(2, True), True, ("DPMSolverMultistepScheduler", SDE_2M)),
    "reverse_diffusion": Method(ReverseDiffusion(), True),
    "euler_maruyama": Method(EulerMaruyama(), True),
}
CLIPS = (DETERMINISTIC, STOCHASTIC, "HeunDiscreteScheduler")


class Free(nn.Module):
    """A network that returns its input, at no cost."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """The input."""
        return x


def ours(sampler: Sampler, count: int, steps: int) -> Loop:
    """Our sampling loop: grid, steps, noise."""
    process = VPSDE.linear(1000)
    denoiser = Clipped(ScoreModel(Free(), process))

    def run() -> None:
        times = grid("uniform", process, steps)
        sample(sampler, denoiser, process, times, Noise.of(0, 0, count), EVENT)

    return run


def scheduler_of(name: str, settings: Json) -> Any:  # noqa: ANN401
    """One of diffusers' schedulers with DDPM's betas; it clips x_0 where it can."""
    import diffusers

    betas = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    clip = {"clip_sample": True} if name in CLIPS else {}
    return getattr(diffusers, name)(**betas, **clip, **settings)


def theirs(name: str, settings: Json, count: int, steps: int) -> Loop:
    """The sampling loop of diffusers' documentation, with one of its schedulers."""
    scheduler, network = scheduler_of(name, settings), Free()
    takes_generator = name not in ("DEISMultistepScheduler", "UniPCMultistepScheduler")
    takes_generator &= name != "HeunDiscreteScheduler"

    def run() -> None:
        generator = torch.Generator().manual_seed(0)
        more: Json = {"generator": generator} if takes_generator else {}
        scheduler.set_timesteps(steps)
        x = torch.randn(count, *EVENT, generator=generator) * scheduler.init_noise_sigma
        with torch.no_grad():
            for t in scheduler.timesteps:
                shown = scheduler.scale_model_input(x, t)
                x = scheduler.step(network(shown, t), t, x, **more).prev_sample

    return run


def bare(count: int, steps: int) -> Loop:
    """A loop of the network alone, called once a step."""
    network, x, index = Free(), torch.zeros(count, *EVENT), torch.zeros(count)

    def run() -> None:
        with torch.no_grad():
            for _ in range(steps):
                network(x, index)

    return run


def measured(count: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Name of a loop -> microseconds a step in each round, without the network's."""
    loops = {name: ours(method.sampler, count, steps) for name, method in METHODS.items()}
    references = [method.namesake for method in METHODS.values() if method.namesake]
    loops |= {title(*each): theirs(*each, count, steps) for each in references}
    loops["network"] = bare(count, steps)
    found: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop()  # warm up: some work is done only once
    with Progress(f"{count} images", rounds, "round") as progress:
        for _ in range(rounds):
            for name, loop in loops.items():
                start = time.perf_counter()
                loop()
                found[name].append((time.perf_counter() - start) / steps * 1e6)
            progress.advance(1)
    network = found.pop("network")
    return {
        name: [each - free for each, free in zip(times, network, strict=True)]
        for name, times in found.items()
    }


def title(name: str, settings: Json) -> str:
    """Name of a scheduler, marked where it solves the SDE."""
    return name + (" (SDE)" if settings else "")


def rows(found: dict[str, list[float]], count: int) -> list[Json]:
    """A row for each method: microseconds, and the ratios to diffusers'."""
    made = []
    for name, method in METHODS.items():
        floor = STOCHASTIC if method.stochastic else DETERMINISTIC
        row: Json = {"images": count, "sampler": name, **measure.middle("us", found[name])}
        row["against"] = floor
        row |= measure.middle("against_us", found[floor])
        row["ratio"] = measure.ratio(found[name], found[floor])
        if method.namesake:
            row["namesake"] = title(*method.namesake)
            row |= measure.middle("namesake_us", found[row["namesake"]])
            row["namesake_ratio"] = measure.ratio(found[name], found[row["namesake"]])
        made.append(row)
    return made


def table(made: list[Json]) -> str:
    """The rows as a Markdown table."""
    head = ["images", "sampler", "us a step", "measured against", "ratio", "namesake", "ratio"]
    lines = []
    for row in made:
        line = [str(row["images"]), row["sampler"], measure.shown(row, "us", ".0f")]
        against = measure.shown(row, "against_us", ".0f")
        line += [f"{row['against']} {against}", f"{row['ratio']:.2f}"]
        if "namesake" in row:
            line += [f"{row['namesake']} {measure.shown(row, 'namesake_us', '.0f')}"]
            line += [f"{row['namesake_ratio']:.2f}"]
        else:
            line += ["", ""]
        lines.append(line)
    return measure.table(head, lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(
        description="microseconds a sampling step without its network, against diffusers"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("results/cpu"))
    args = parser.parse_args(argv)
    if args.rounds < 2 or not 1 <= args.steps <= 1000:
        parser.error("at least 2 rounds and 1..1000 steps are needed")
    args.out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = [
            row
            for count in COUNTS
            for row in rows(measured(count, args.steps, args.rounds), count)
        ]
    finally:
        torch.set_num_threads(threads)
    settings: dict[str, Any] = {"rounds": args.rounds, "steps": args.steps, "threads": 1}
    command = f"python -m benchmarks.overhead --rounds {args.rounds} --steps {args.steps}"
    result = {"unit": "microseconds a step less the network's", "settings": settings}
    result |= {"command": command, "device": "cpu", "rows": made}
    text = "Microseconds, one thread: the median of the rounds, and their middle half.\n\n"
    name = "Overhead of a sampling step, without its network"
    measure.keep(args.out, "overhead", name, result, text + table(made))
    print(table(made))


if __name__ == "__main__":
    main()
