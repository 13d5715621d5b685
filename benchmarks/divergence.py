"""A likelihood's divergence by vjp, which is ours, beside jvp; and images/s at 1e-3 bits/dim.

    python -m benchmarks.divergence [--device cpu] [--batch 16] [--rounds 3] [--out DIR]
                                    [--workdir runs/digits-vp] [--images 32]

probe^T J probe needs one product with the Jacobian J of the field. `sde/flow.py` takes it from
behind (vjp: J^T probe, a backward pass, for which the activations are kept); it can be had from
before (jvp: J probe, a tangent beside the forward pass, for which none is kept). Both numbers are
the same. Torch's fused attention has no tangent, so that jvp writes attention out, nor has its
GroupNorm with channels last.

First table: one evaluation of the field of the CIFAR-10 DDPM U-Net (35.7M parameters, random
weights: time does not depend on them) in float32 without TF32. "forward" is the field alone; "x
forward" is how many times its seconds the field with its divergence takes. Peak memory is that of
a process of its own that evaluates once (on a GPU what torch has allocated; else Python, torch and
the building of the network count too, and hide a small batch).

Second table: test images of a trained run, one probe, solved all at once by
`scoreflow.likelihood.Flow` with either product. An error is the mean of |bits/dim - truth| over
the images, truth being tolerance 1e-6 by vjp with the same probe. Rates are at the default
tolerance, and at the loosest from which on every tighter one has an error below 1e-3. Without a
run there is no such table; `make demo` trains one. How the usual procedure does at equal error is
told by `benchmarks.likelihood`.

Rounds interleave all, after one that is not counted; figures are medians and middle halves over
the rounds, ratios medians of the rounds' own. Needs the `bench` extra.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import contenders, measure, rates
from benchmarks.likelihood import Asked, Bench, bench_of, say
from benchmarks.measure import timed
from benchmarks.rates import Field
from scoreflow import factory
from scoreflow.configs import cifar10
from scoreflow.errors import RequestError
from scoreflow.models.score_model import arithmetic
from scoreflow.sde import SDE, Denoiser
from scoreflow.sde.flow import velocity, velocity_and_divergence
from scoreflow.sde.types import Batch, Times
from scoreflow.storage.atomic_files import Json

RUN = Path("runs/digits-vp")


def alone(
    sde: SDE, denoiser: Denoiser, angle: Times, x: Batch, probes: Iterable[Tensor]
) -> tuple[Batch, Tensor]:
    """The field, and no divergence."""
    with torch.no_grad():
        return velocity(sde, denoiser, angle, x), x.new_zeros(len(x), 0)


FIELDS: dict[str, Field] = {
    "forward": alone,
    "vjp": velocity_and_divergence,
    "jvp": rates.by_jvp,
}


def evaluations(device: torch.device, batch: int) -> dict[str, measure.Steps]:
    """So many evaluations of the field of the CIFAR-10 network, by name."""
    config = cifar10.get_config()
    config.training.channels_last = False  # in which torch's GroupNorm has no tangent
    network = factory.build_network(config, contenders.images(device)).eval().requires_grad_(False)
    sde = factory.build_sde(config)
    model = factory.build_model(config, network, sde)
    generator = torch.Generator().manual_seed(0)
    x, probe = torch.randn(2, batch, 3, 32, 32, generator=generator, dtype=torch.float64)
    x, probe = x.to(device), probe.sign().to(device)
    # each image has its own, and they lie on the device, as in the solver
    angle = torch.linspace(0.3, 1.2, batch, dtype=torch.float64, device=device)

    def often(field: Field) -> Callable[[int], None]:
        def run(count: int) -> None:
            for _ in range(count):
                field(sde, model, angle, x, [probe])

        return run

    return {name: often(field) for name, field in FIELDS.items()}


def measured(device: torch.device, batch: int, rounds: int) -> list[Json]:
    """A row of each field, with its peak memory."""
    runs, count = evaluations(device, batch), 10 if device.type == "cuda" else 1
    times: dict[str, list[float]] = {name: [] for name in runs}
    with arithmetic("float32"):
        for run in runs.values():
            run(1)
        for number in range(rounds):
            say(f"evaluations, round {number + 1} of {rounds}")
            for name, run in runs.items():
                times[name].append(timed(run, count, device))
    return [
        {**row(name, times, batch), "memory_gb": memory(name, device, batch)} for name in times
    ]


def row(name: str, times: dict[str, list[float]], batch: int) -> Json:
    """What the times of one field come to."""
    own = times[name]
    return {
        "field": name,
        **measure.middle("seconds", own),
        **measure.middle("images_per_second", [batch / each for each in own]),
        "over_forward": measure.ratio(own, times["forward"]),
        "over_vjp": measure.ratio(own, times["vjp"]),
        "seconds_each": own,
    }


def memory(name: str, device: torch.device, batch: int) -> float:
    """Peak memory of a process that evaluates once, in GB."""
    command = [sys.executable, "-m", "benchmarks.divergence", f"--memory-of={name}"]
    command += [f"--device={device}", f"--batch={batch}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(name: str, device: torch.device, batch: int) -> None:
    """What `memory` asks a process of its own."""
    with arithmetic("float32"):
        evaluations(device, batch)[name](1)
    measure.wait(device)
    print(measure.peak_memory(device))


def table(rows: list[Json]) -> str:
    """The rows in Markdown."""
    head = ["field", "s an evaluation", "images/s", "x forward", "x vjp", "peak memory, GB"]
    cells = []
    for r in rows:
        line = [r["field"], measure.shown(r, "seconds"), f"{r['images_per_second']:.2f}"]
        line += [f"{r['over_forward']:.2f}", f"{r['over_vjp']:.2f}", f"{r['memory_gb']:.2f}"]
        cells.append(line)
    return measure.table(head, cells)


def trained(asked: argparse.Namespace, device: torch.device) -> Bench | None:
    """The run to measure; None, and a line that says why, where no usable one was asked for."""
    run, images = asked.workdir or RUN, asked.images
    try:
        return bench_of(Asked(run, images, images, asked.rounds, device, Path(), []))
    except RequestError as error:
        if asked.workdir is not None:
            raise
        say(f"no images/s at {rates.GOOD_ENOUGH:g} bits/dim ({error}); `make demo` trains {RUN}")
        return None


def parsed(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line, and who refuses what is wrong with it."""
    parser = measure.parser_of("a likelihood's divergence by vjp and jvp, and images a second")
    parser.add_argument("--workdir", type=Path, default=None, help=f"a trained run; {RUN}")
    parser.add_argument("--images", type=int, default=32, help="of its test set")
    parser.add_argument("--memory-of", choices=tuple(FIELDS), default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.images < 1:
        parser.error(f"--images must be 1 or more, got {asked.images}")
    return parser, asked


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser, asked = parsed(argv)
    device = measure.device_of(parser, asked)
    batch = asked.batch or (64 if device.type == "cuda" else 16)
    if asked.memory_of:
        print_memory(asked.memory_of, device, batch)
        return
    try:
        bench = trained(asked, device)
    except RequestError as error:
        parser.error(str(error))
    rows, likelihood = measured(device, batch, asked.rounds), None
    command = f"python -m benchmarks.divergence --device {device} --batch {batch}"
    command += f" --rounds {asked.rounds}"
    text = table(rows) + "\n\n"
    if bench is None:
        text += "No trained run, and so no images/s at an error: `make demo` trains one."
    else:
        run = asked.workdir or RUN
        with arithmetic("float32"):
            likelihood = rates.measured(bench, asked.images, asked.rounds)
        command += f" --workdir {run} --images {asked.images}"
        text += f"{asked.images} test images of {run} (step {bench.step}), one probe:\n\n"
        text += rates.text(likelihood)
    settings = {"batch": batch, "rounds": asked.rounds, "threads": torch.get_num_threads()}
    result = {"unit": "seconds an evaluation", "command": command, "settings": settings}
    result |= {"device": str(device), "rows": rows, "likelihood": likelihood}
    title = "The divergence of a likelihood, by vjp and by jvp"
    measure.keep(measure.folder(device, asked.out), "divergence", title, result, text)
    print(text)


if __name__ == "__main__":
    main()
