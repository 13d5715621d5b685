"""Images a second of the CIFAR-10 DDPM U-Net (35.7M parameters) at 20 evaluations.

    python -m benchmarks.sampling [--device cpu] [--batch 4] [--rounds 3] [--out DIR]
                                  [--variants float32,bfloat16,best]

Ours is what --mode sample does: the method on its own grid, addressed noise, float64 state, x_0
clipped, levels at the end. Theirs is `UNet2DModel` of the same layout in their pipelines' loop
with the scheduler of the same method, 20 steps of it, and levels at the end. Weights are random:
time does not depend on them.

Variants are of training's: float32 (without TF32, both), channels_last, bfloat16 (autocast, both)
and best (bfloat16, compiled, channels-last; --mode sample itself does not compile). "diffusers,
half" has weights and state in bfloat16, as their pipelines have it with torch_dtype; ours has no
such mode. Unless others are named a GPU runs float32, bfloat16 and best, a CPU float32 and
channels_last, which is our default.

Rounds interleave all of them, a batch each after one that is not counted; figures are medians and
middle halves over the rounds, a ratio the median of the rounds' own: above 1, faster than
diffusers in the same variant and method. Evaluations are counted where the network is called, in
images by images drawn; where they are not 20, the row says so. Needs the `bench` extra.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import contenders, measure, overhead
from benchmarks.contenders import VARIANTS as TRAINED
from benchmarks.measure import timed
from scoreflow import factory
from scoreflow.configs import cifar10
from scoreflow.data.levels import quantize
from scoreflow.models.score_model import arithmetic
from scoreflow.samplers import sample
from scoreflow.sde import Noise
from scoreflow.storage.atomic_files import Json

SAMPLERS = ("unipc", "dpm", "ddim")
VARIANTS = {name: TRAINED[name] for name in ("float32", "channels_last", "bfloat16", "best")}
EVALUATIONS = 20
EVENT = (3, 32, 32)
OURS, THEIRS, HALF = "ours", "diffusers", "diffusers, half"


class Heard(nn.Module):
    """A network, and on how many images it was asked."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.rows = module, 0

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:  # noqa: ANN401
        """What the network says."""
        self.rows += len(x)
        return self.module(x, *more, **named)


class Contender(NamedTuple):
    """Who draws.

    Attributes:
        draw: a batch by the name of a sampler, (B, 3, 32, 32) uint8 on the CPU.
        network: counts what it is asked.
    """

    draw: Callable[[str], Tensor]
    network: Heard


class Case(NamedTuple):
    """What is timed."""

    who: str
    variant: str
    sampler: str


def ours(device: torch.device, batch: int, variant: str) -> Contender:
    """The network as --mode sample has it, and the loop."""
    config = cifar10.get_config()
    config.training.update(VARIANTS[variant])
    config.sampling.steps = EVALUATIONS
    data = contenders.images(device)
    network = factory.build_network(config, data).eval().requires_grad_(False)
    heard = Heard(factory.compiled(network, factory.build_training(config)))
    model = factory.build_model(config, heard, factory.build_sde(config))

    def draw(sampler: str) -> Tensor:
        way = factory.build_drawing(config, sampler, model, data)
        noise = Noise.of(0, 0, batch, device)
        args = way.sampler, way.denoiser, model.sde, way.times, noise, EVENT
        return quantize(sample(*args, final=way.final), 256).cpu()

    return Contender(draw, heard)


def theirs(device: torch.device, batch: int, variant: str, half: bool = False) -> Contender:
    """Diffusers' network and their pipelines' loop; `half`: weights and state in bfloat16."""
    asked = VARIANTS[variant]
    network = contenders.theirs(device, batch, variant)[2].eval().requires_grad_(False)
    network = network.to(torch.bfloat16) if half else network
    heard = Heard(torch.compile(network) if asked.get("compile") else network)
    autocast = asked.get("precision") == "bfloat16" and not half
    like = torch.empty(0, device=device, dtype=torch.bfloat16 if half else torch.float32)

    @torch.no_grad()
    def draw(sampler: str) -> Tensor:
        scheduler, generator = scheduler_of(sampler), torch.Generator(device).manual_seed(0)
        scheduler.set_timesteps(EVALUATIONS, device=device)
        x = torch.randn(batch, *EVENT, generator=generator, device=device, dtype=like.dtype)
        x = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            shown = scheduler.scale_model_input(x, t)
            if asked.get("channels_last"):
                shown = shown.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                eps = heard(shown, t, return_dict=False)[0]
            x = scheduler.step(eps.to(x.dtype), t, x, return_dict=False)[0]
        return ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    return Contender(draw, heard)


def scheduler_of(sampler: str) -> Any:  # noqa: ANN401
    """Diffusers' scheduler of a method of ours."""
    namesake = overhead.METHODS[sampler].namesake
    assert namesake, "each of SAMPLERS has one"
    return overhead.scheduler_of(*namesake)


def made(
    device: torch.device, batch: int, variants: list[str]
) -> dict[tuple[str, str], Contender]:
    """Everyone, by name and variant."""
    found = {}
    for variant in variants:
        found[OURS, variant] = ours(device, batch, variant)
        found[THEIRS, variant] = theirs(device, batch, variant)
        if VARIANTS[variant].get("precision") == "bfloat16":
            found[HALF, variant] = theirs(device, batch, variant, half=True)
    return found


def measured(device: torch.device, batch: int, variants: list[str], rounds: int) -> list[Json]:
    """A row of each contender, variant and method."""
    everyone = made(device, batch, variants)
    times: dict[Case, list[float]] = {
        Case(*who, sampler): [] for sampler in SAMPLERS for who in everyone
    }
    rows = dict.fromkeys(times, 0)
    with arithmetic("float32"):
        for case in times:  # each, for a compiled network may be compiled again
            everyone[case.who, case.variant].draw(case.sampler)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for case in times:
                draw, network = everyone[case.who, case.variant]
                network.rows = 0
                times[case].append(timed(lambda _, d=draw, c=case: d(c.sampler), 1, device))
                rows[case] += network.rows
    return [row(case, times, rows[case] / batch / rounds, batch) for case in times]


def row(case: Case, times: dict[Case, list[float]], evaluations: float, batch: int) -> Json:
    """What one contender's times come to."""
    own, reference = times[case], times[case._replace(who=THEIRS)]
    return {
        **case._asdict(),
        **measure.middle("seconds", own),
        **measure.middle("images_per_second", [batch / each for each in own]),
        "ratio": measure.ratio(reference, own),
        "evaluations": evaluations,
        "seconds_each": own,
    }


def table(rows: list[Json]) -> str:
    """The rows in Markdown."""
    head = ["method", "variant", "", "images/s", "x diffusers", "s a batch", "evaluations"]
    cells = []
    for r in rows:
        asked = f"{r['evaluations']:g}"
        asked += "" if r["evaluations"] == EVALUATIONS else f", not {EVALUATIONS}"
        line = [r["sampler"], r["variant"], r["who"], measure.shown(r, "images_per_second", ".2f")]
        cells.append([*line, f"{r['ratio']:.2f}", measure.shown(r, "seconds"), asked])
    return measure.table(head, cells)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = measure.parser_of("images a second at 20 evaluations, beside diffusers'")
    parser.add_argument("--variants", default="", help=f"of {','.join(VARIANTS)}")
    asked = parser.parse_args(argv)
    device = measure.device_of(parser, asked)
    on_gpu = device.type == "cuda"
    batch = asked.batch or (256 if on_gpu else 4)
    usual = ["float32", "bfloat16", "best"] if on_gpu else ["float32", "channels_last"]
    variants = measure.variants_of(parser, asked.variants, VARIANTS, usual)
    rows = measured(device, batch, variants, asked.rounds)
    command = f"python -m benchmarks.sampling --device {device} --batch {batch}"
    command += f" --rounds {asked.rounds} --variants {','.join(variants)}"
    settings = {"batch": batch, "rounds": asked.rounds, "threads": torch.get_num_threads()}
    result = {"unit": "images a second", "command": command, "settings": settings}
    result |= {"device": str(device), "rows": rows}
    title, text = "Images a second at 20 evaluations of the CIFAR-10 DDPM U-Net", table(rows)
    measure.keep(measure.folder(device, asked.out), "sampling", title, result, text)
    print(text)


if __name__ == "__main__":
    main()
