"""A likelihood's divergence by vjp (ours) against jvp; and images/s at 1e-3 bits/dim.

    python -m benchmarks.divergence [--device cpu] [--batch 16] [--rounds 3] [--out DIR]
                                    [--workdir runs/digits-vp] [--images 32]

probe^T J probe needs one product with the Jacobian J of the field. `sde/flow.py` computes it by
reverse differentiation (vjp: J^T probe, a backward pass, for which the activations are kept); it
can also be computed by forward differentiation (jvp: J probe, a tangent propagated with the
forward pass, for which none is kept). Both give the same number. Torch's fused attention has no
tangent, so that jvp writes attention out, nor has its GroupNorm with channels last.

First table: one evaluation of the field of the CIFAR-10 DDPM U-Net (35.7M parameters, random
weights: time does not depend on them) in float32 without TF32. "forward" is the field alone; "x
forward" is the seconds of the field with its divergence over those of the field alone. Peak memory
is that of a separate process that evaluates once (on a GPU what torch has allocated; else Python,
torch and the building of the network count too, and hide a small batch).

Second table: test images of a trained run, one probe, solved all at once by
`scoreflow.likelihood.flow_likelihood` with either product. An error is the mean over the images of
|bits/dim - truth|, truth being tolerance 1e-6 by vjp with the same probe. Rates are at the default
tolerance, and at the loosest from which on every tighter one has an error below 1e-3. Without a
run there is no such table; `make demo` trains one. `benchmarks.likelihood` compares with the usual
procedure at equal error.

Each round runs every case once, after one round that is not counted; figures are medians and
quartiles over the rounds, ratios are medians of the ratios within a round. Needs the `bench`
extra.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command_line, contenders, measure, rates
from benchmarks.likelihood.bench import Bench, load_bench
from benchmarks.measure import say, timed
from benchmarks.rates import Field
from scoreflow.configs import cifar10
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.model import build_model, build_network
from scoreflow.models.score_model import arithmetic
from scoreflow.sde import SDE, Denoiser
from scoreflow.sde.flow import velocity, velocity_and_divergence
from scoreflow.sde.types import Batch, Times
from scoreflow.storage.atomic_files import Json

RUN = Path("runs/digits-vp")


def alone(
    sde: SDE, denoiser: Denoiser, angle: Times, x: Batch, probes: Iterable[Tensor]
) -> tuple[Batch, Tensor]:
    """The field without its divergence."""
    with torch.no_grad():
        return velocity(sde, denoiser, angle, x), x.new_zeros(len(x), 0)


FIELDS: dict[str, Field] = {
    "forward": alone,
    "vjp": velocity_and_divergence,
    "jvp": rates.by_jvp,
}


def evaluations(device: torch.device, batch: int) -> dict[str, measure.Steps]:
    """Name -> function that evaluates the field of the CIFAR-10 network so many times."""
    config = cifar10.get_config()
    config.training.channels_last = False  # in which torch's GroupNorm has no tangent
    network = build_network(config, contenders.images(device)).eval().requires_grad_(False)
    sde = build_sde(config)
    model = build_model(config, network, sde)
    generator = torch.Generator().manual_seed(0)
    x, probe = torch.randn(2, batch, 3, 32, 32, generator=generator, dtype=torch.float64)
    x, probe = x.to(device), probe.sign().to(device)
    # one angle an image, on the device, as in the solver
    angle = torch.linspace(0.3, 1.2, batch, dtype=torch.float64, device=device)

    def repeated(field: Field) -> Callable[[int], None]:
        def run(count: int) -> None:
            for _ in range(count):
                field(sde, model, angle, x, [probe])

        return run

    return {name: repeated(field) for name, field in FIELDS.items()}


def measured(device: torch.device, batch: int, rounds: int) -> list[Json]:
    """A row for each field, with its peak memory."""
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
    """The row of one field, from its seconds in each round."""
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
    """Peak memory of a separate process that evaluates once, in GB."""
    command = [sys.executable, "-m", "benchmarks.divergence", f"--memory-of={name}"]
    command += [f"--device={device}", f"--batch={batch}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(name: str, device: torch.device, batch: int) -> None:
    """Evaluate once and print the peak memory: the process that `memory` starts."""
    with arithmetic("float32"):
        evaluations(device, batch)[name](1)
    measure.wait(device)
    print(measure.peak_memory(device))


def table(rows: list[Json]) -> str:
    """The rows as a Markdown table."""
    head = ["field", "s an evaluation", "images/s", "x forward", "x vjp", "peak memory, GB"]
    cells = []
    for r in rows:
        line = [r["field"], measure.shown(r, "seconds"), f"{r['images_per_second']:.2f}"]
        line += [f"{r['over_forward']:.2f}", f"{r['over_vjp']:.2f}", f"{r['memory_gb']:.2f}"]
        cells.append(line)
    return measure.table(head, cells)


def trained(args: argparse.Namespace, device: torch.device) -> Bench | None:
    """The run to measure; None, and a line on stderr, if the default one cannot be.

    Raises:
        RequestError: --workdir names a run that cannot be measured.
    """
    try:
        return load_bench(args.workdir or RUN, device, {"--images": args.images})
    except RequestError as error:
        if args.workdir is not None:
            raise
        say(f"no images/s at {rates.GOOD_ENOUGH:g} bits/dim ({error}); `make demo` trains {RUN}")
        return None


def parsed(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, which reports errors, and the arguments."""
    parser = command_line.parser_of(
        "a likelihood's divergence by vjp and jvp, and images a second"
    )
    parser.add_argument("--workdir", type=Path, default=None, help=f"a trained run; {RUN}")
    parser.add_argument("--images", type=int, default=32, help="of its test set")
    parser.add_argument("--memory-of", choices=tuple(FIELDS), default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f"--images must be 1 or more, got {args.images}")
    command_line.check_counts(parser, args)
    return parser, args


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables, and write them."""
    parser, args = parsed(argv)
    device = command_line.device_of(parser, args.device)
    batch = args.batch or (64 if device.type == "cuda" else 16)
    if args.memory_of:
        print_memory(args.memory_of, device, batch)
        return
    try:
        bench = trained(args, device)
    except RequestError as error:
        parser.error(str(error))
    rows, likelihood = measured(device, batch, args.rounds), None
    command = f"python -m benchmarks.divergence --device {device} --batch {batch}"
    command += f" --rounds {args.rounds}"
    text = table(rows) + "\n\n"
    if bench is None:
        text += "No trained run, and so no images/s at an error: `make demo` trains one."
    else:
        run = args.workdir or RUN
        with arithmetic("float32"):
            likelihood = rates.measured(bench, args.images, args.rounds)
        command += f" --workdir {run} --images {args.images}"
        text += f"{args.images} test images of {run} (step {bench.step}), one probe:\n\n"
        text += rates.text(likelihood)
    settings = {"batch": batch, "rounds": args.rounds, "threads": torch.get_num_threads()}
    result = {"unit": "seconds an evaluation", "command": command, "settings": settings}
    result |= {"device": str(device), "rows": rows, "likelihood": likelihood}
    title = "The divergence of a likelihood, by vjp and by jvp"
    measure.keep(measure.folder(device, args.out), "divergence", title, result, text)
    print(text)


if __name__ == "__main__":
    main()
