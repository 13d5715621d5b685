"""`python -m benchmarks.nodes --workdir DIR`: rules for the nodes of an exact likelihood.

Solves the flow of test images on a fine grid with the whole Jacobian at each point, which is all
that there is to know: the integrand of the log-density, and in closed form the variance of a
random probe anywhere (of more than 512 dimensions, an estimate of that variance by 8 probes, and
nothing of places). From that follows, for every density of nodes, every rule for their places
and every number of them, what an image's bits/dim are off by, without another evaluation.
"""

import math
import shlex
import sys
from pathlib import Path

from benchmarks.command_line import OneLineParser, exit_status, whole_number
from benchmarks.measure import folder, keep, load_run, say, table
from benchmarks.nodes.profile import Profile, measure
from benchmarks.nodes.rules import (
    GAUSS,
    PLACES,
    Density,
    densities,
    gauss_part,
    place_part,
    probe_part,
)
from scoreflow.runtime.device import build_device
from scoreflow.storage.atomic_files import Json

COUNTS = (8, 12, 16, 24, 32, 48)
ALONE = "probes alone"
"""Of images whose Jacobian is too large to be found whole."""
TIMES = 400
"""Sets of places that a rule's error is averaged over."""


def rows_of(profile: Profile) -> list[Json]:
    """A row each for density, rule and number of nodes; errors are RMS, in bits/dim an image."""
    found: list[Json] = []
    for named, density in densities(profile).items():
        for count in COUNTS:
            if (
                not profile.whole
            ):  # estimates have noise where a rule for places would see roughness
                found.append(_by_probes_alone(profile, named, density, count))
                continue
            probes = probe_part(profile, density, count, profile.variance)
            beyond = probe_part(profile, density, count, profile.beyond_gaussian)
            common = {
                "density": named,
                "nodes": count,
                "probes": math.sqrt(probes),
                "probes_less_gaussian": math.sqrt(beyond),
            }
            for rule, places in PLACES.items():
                part = place_part(profile, density, places, count, TIMES)
                of_rule = {"rule": rule, "places": math.sqrt(part), "bias": 0.0}
                found.append({**common, **of_rule, "error": math.sqrt(part + probes)})
            part, bias = gauss_part(profile, density, count)
            of_rule = {"rule": GAUSS, "places": math.sqrt(part), "bias": bias}
            found.append({**common, **of_rule, "error": math.sqrt(part + probes)})
    return found


def _by_probes_alone(profile: Profile, named: str, density: Density, count: int) -> Json:
    own = math.sqrt(probe_part(profile, density, count, profile.variance))
    return {"density": named, "nodes": count, "rule": ALONE, "probes": own}


def text_of(rows: list[Json]) -> str:
    """A table of errors, and in brackets what the places alone make."""
    if rows[0]["rule"] == ALONE:
        lines: dict[str, list[str]] = {}
        for row in rows:
            lines.setdefault(row["density"], []).append(f"{row['probes']:.4f}")
        head = ["density of nodes", *(f"K = {count}" for count in COUNTS)]
        told = table(head, [[name, *values] for name, values in lines.items()])
        return f"RMS error of an image in bits/dim, by one probe a node alone:\n\n{told}"
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        cell = f"{row['error']:.3f} ({row['places']:.3f})"
        cells.setdefault((row["density"], row["rule"]), []).append(cell)
    head = ["density of nodes", "rule", *(f"K = {count}" for count in COUNTS)]
    errors = table(head, [[*key, *values] for key, values in cells.items()])
    probes = [row for row in rows if row["rule"] == GAUSS]
    lines = {row["density"]: [] for row in probes}
    for row in probes:
        lines[row["density"]].append(
            f"{row['probes']:.3f} ({row['probes'] / row['probes_less_gaussian']:.2f})"
        )
    head = ["density of nodes", *(f"K = {count}" for count in COUNTS)]
    own = table(head, [[name, *values] for name, values in lines.items()])
    return (
        "RMS error of an image in bits/dim by one probe a node, of which by the nodes' places in "
        f"brackets:\n\n{errors}\n\nBy the probes alone, and in brackets how many times that of "
        f"the Jacobian less a Gaussian's, a control variate:\n\n{own}"
    )


def run(argv: list[str]) -> None:
    """Measure, and write OUT/nodes.json and .md."""
    parser = OneLineParser("nodes", __doc__ or "")
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run's folder")
    parser.add_argument("--images", type=whole_number(2), default=24, help="of the test set")
    parser.add_argument("--points", type=whole_number(8), default=512, help="of a trajectory")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    asked = parser.parse_args(argv[1:])
    device = build_device(asked.device)
    profile = measure(load_run(asked.workdir, device), asked.images, asked.points)
    rows = rows_of(profile)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.nodes", *argv[1:]]),
        "unit": "bits/dim",
        "settings": {"images": asked.images, "points": asked.points, "times": TIMES},
        "rows": rows,
        "profile": {
            "s": profile.s.tolist(),
            "integrand": profile.integrand.mean(0).tolist(),
            "variance": profile.variance.mean(0).tolist(),
        },
        "device": asked.device,
    }
    keep(folder(device, asked.out), "nodes", "Rules for nodes", result, text_of(rows))
    say(text_of(rows))


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    return exit_status("nodes", lambda: run(argv), "stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
