"""Images a second of the CIFAR-10 DDPM U-Net (35.7M parameters) at 20 evaluations.

    python -m benchmarks.sampling [--device cpu] [--batch 4] [--rounds 3] [--out DIR]
                                  [--variants float32,bfloat16,best]

Ours is what --mode sample does: the method on its own grid, addressed noise, float64 state, x_0
clipped, levels at the end. The reference is diffusers: `UNet2DModel` of the same layout in the
loop of their pipelines, with the scheduler of the same method at 20 steps, and levels at the end.
Weights are random: time does not depend on them.

Variants are those of `benchmarks.training`: float32 (without TF32, both), channels_last, tf32,
bfloat16 (autocast, both), gpu (tf32, compiled, channels-last) and best (the same in bfloat16).
"diffusers, half" has weights and state in bfloat16, like their pipelines with torch_dtype; ours
has no such mode. By default a GPU runs float32, bfloat16 and best, a CPU float32 and
channels_last, which is our default.

Each round draws one batch with every contender, after one round that is not counted; figures are
medians and quartiles over the rounds, a ratio is the median of the ratios within a round: above 1,
faster than diffusers in the same variant and method. Evaluations are counted where the network is
called: images evaluated over images drawn; a row marks a count other than 20. Needs the `bench`
extra.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import command_line, contenders, measure, overhead
from benchmarks.contenders import VARIANTS as TRAINED
from benchmarks.measure import CHANNELS, say, timed
from scoreflow.configs import cifar10
from scoreflow.data.levels import quantize
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.model import build_model, build_network
from scoreflow.factory.sampling import build_drawing
from scoreflow.factory.training import build_training, compiled
from scoreflow.models.score_model import HALF as HALVES
from scoreflow.models.score_model import arithmetic
from scoreflow.samplers import sample
from scoreflow.sde import Noise
from scoreflow.storage.atomic_files import Json

SAMPLERS = ("unipc", "dpm", "ddim")
NAMES = ("float32", "channels_last", "tf32", "bfloat16", "gpu", "best", "float16", "best16")
VARIANTS = {name: TRAINED[name] for name in NAMES}
EVALUATIONS = 20
EVENT = (3, 32, 32)
OURS, THEIRS, HALF = "ours", "diffusers", "diffusers, half"


class CountedNetwork(nn.Module):
    """A network that counts the images it is evaluated on.

    Args:
        module: the network.

    Attributes:
        rows: images so far, over all calls.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.rows = module, 0

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:  # noqa: ANN401
        """The output of the network."""
        self.rows += len(x)
        return self.module(x, *more, **named)


class Contender(NamedTuple):
    """One way to draw images.

    Attributes:
        draw: name of a sampler -> a batch, (B, 3, 32, 32) uint8 on the CPU.
        network: counts its evaluations.
    """

    draw: Callable[[str], Tensor]
    network: CountedNetwork


class Case(NamedTuple):
    """What is timed: a contender in a variant with a sampler."""

    who: str
    variant: str
    sampler: str


def ours(device: torch.device, batch: int, variant: str, channels: int = CHANNELS) -> Contender:
    """Our network as --mode sample builds it, and our sampling loop."""
    config = cifar10.get_config()
    config.model.channels = channels
    config.training.update(VARIANTS[variant])
    config.sampling.steps = EVALUATIONS
    data = contenders.images(device)
    network = build_network(config, data).eval().requires_grad_(False)
    counted = CountedNetwork(compiled(network, build_training(config)))
    model = build_model(config, counted, build_sde(config))

    def draw(sampler: str) -> Tensor:
        way = build_drawing(config, sampler, model, data)
        noise = Noise.of(0, 0, batch, device)
        args = way.sampler, way.denoiser, model.sde, way.times, noise, EVENT
        return quantize(sample(*args, final=way.final), 256).cpu()

    return Contender(draw, counted)


def theirs(
    device: torch.device,
    batch: int,
    variant: str,
    half: bool = False,
    channels: int = CHANNELS,
) -> Contender:
    """Diffusers' network and the loop of their pipelines; with `half` all of it in that."""
    options = VARIANTS[variant]
    network = contenders.theirs(device, batch, variant, channels)[2]
    network = network.eval().requires_grad_(False)
    own = HALVES.get(options["precision"])
    network = network.to(own) if half else network
    counted = CountedNetwork(torch.compile(network) if options.get("compile") else network)
    autocast = own is not None and not half
    like = torch.empty(0, device=device, dtype=own if half else torch.float32)

    @torch.no_grad()
    def draw(sampler: str) -> Tensor:
        scheduler, generator = scheduler_of(sampler), torch.Generator(device).manual_seed(0)
        scheduler.set_timesteps(EVALUATIONS, device=device)
        x = torch.randn(batch, *EVENT, generator=generator, device=device, dtype=like.dtype)
        x = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            shown = scheduler.scale_model_input(x, t)
            if options.get("channels_last"):
                shown = shown.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, own or torch.bfloat16, enabled=autocast):
                eps = counted(shown, t, return_dict=False)[0]
            x = scheduler.step(eps.to(x.dtype), t, x, return_dict=False)[0]
        return ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    return Contender(draw, counted)


def scheduler_of(sampler: str) -> Any:  # noqa: ANN401
    """Diffusers' scheduler of the same method as one of our samplers."""
    namesake = overhead.METHODS[sampler].namesake
    assert namesake, "each of SAMPLERS has one"
    return overhead.scheduler_of(*namesake)


def made(
    device: torch.device, batch: int, variants: list[str], channels: int = CHANNELS
) -> dict[tuple[str, str], Contender]:
    """All contenders, by name and variant."""
    found, both = {}, len(contenders.present()) > 1
    for variant in variants:
        found[OURS, variant] = ours(device, batch, variant, channels)
        if both:
            found[THEIRS, variant] = theirs(device, batch, variant, channels=channels)
        if both and VARIANTS[variant]["precision"] in HALVES:
            found[HALF, variant] = theirs(device, batch, variant, True, channels)
    return found


def measured(
    device: torch.device,
    batch: int,
    variants: list[str],
    rounds: int,
    channels: int = CHANNELS,
) -> list[Json]:
    """A row for each contender, variant and method."""
    everyone = made(device, batch, variants, channels)
    times: dict[Case, list[float]] = {
        Case(*who, sampler): [] for sampler in SAMPLERS for who in everyone
    }
    rows = dict.fromkeys(times, 0)
    for case in times:  # all of them, as a compiled network may be compiled again
        drawn(everyone, case)
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for case in times:
            network = everyone[case.who, case.variant].network
            network.rows = 0
            times[case].append(timed(lambda _, c=case: drawn(everyone, c), 1, device))
            rows[case] += network.rows
    return [row(case, times, rows[case] / batch / rounds, batch) for case in times]


def drawn(everyone: dict[tuple[str, str], Contender], case: Case) -> Tensor:
    """A batch of one case, in the arithmetic of its variant."""
    with arithmetic(VARIANTS[case.variant]["precision"]):
        return everyone[case.who, case.variant].draw(case.sampler)


def row(case: Case, times: dict[Case, list[float]], evaluations: float, batch: int) -> Json:
    """The row of one case, from its seconds in each round."""
    own, reference = times[case], times.get(case._replace(who=THEIRS))
    return {
        **case._asdict(),
        **measure.middle("seconds", own),
        **measure.middle("images_per_second", [batch / each for each in own]),
        "ratio": measure.ratio(reference, own) if reference else None,
        "evaluations": evaluations,
        "seconds_each": own,
    }


def table(rows: list[Json]) -> str:
    """The rows as a Markdown table."""
    head = ["method", "variant", "", "images/s", "x diffusers", "s a batch", "evaluations"]
    cells = []
    for r in rows:
        evaluations = f"{r['evaluations']:g}"
        evaluations += "" if r["evaluations"] == EVALUATIONS else f", not {EVALUATIONS}"
        line = [r["sampler"], r["variant"], r["who"], measure.shown(r, "images_per_second", ".2f")]
        cells.append([*line, measure.number(r["ratio"]), measure.shown(r, "seconds"), evaluations])
    return measure.table(head, cells)


def parsed(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, which reports errors, and the arguments."""
    parser = command_line.parser_of("images a second at 20 evaluations, against diffusers'")
    command_line.add_channels(parser)
    parser.add_argument("--variants", default="", help=f"of {','.join(VARIANTS)}")
    args = parser.parse_args(argv)
    command_line.check_counts(parser, args)
    return parser, args


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, and write it."""
    parser, args = parsed(argv)
    device = command_line.device_of(parser, args.device)
    on_gpu = device.type == "cuda"
    batch = args.batch or (256 if on_gpu else 4)
    default = ["float32", "bfloat16", "best"] if on_gpu else ["float32", "channels_last"]
    default = contenders.variants_in(contenders.half_on(device), default)
    variants = command_line.variants_of(parser, args.variants, VARIANTS, default)
    rows = measured(device, batch, variants, args.rounds, args.channels)
    command = f"python -m benchmarks.sampling --device {device} --batch {batch}"
    command += f" --rounds {args.rounds} --variants {','.join(variants)}"
    command += command_line.channels_of(args)
    settings = {"batch": batch, "rounds": args.rounds, "threads": torch.get_num_threads()}
    settings["channels"] = args.channels
    result = {"unit": "images a second", "command": command, "settings": settings}
    result |= {"device": str(device), "rows": rows}
    title, text = "Images a second at 20 evaluations of the CIFAR-10 DDPM U-Net", table(rows)
    measure.keep(measure.folder(device, args.out), "sampling", title, result, text)
    print(text)


if __name__ == "__main__":
    main()
