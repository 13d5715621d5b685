"""The command of the table: measure the cells that are missing, write the JSON and the table."""

import shlex
import sys

from benchmarks import measure
from benchmarks.command_line import exit_status
from benchmarks.gpu.sources import fingerprint
from benchmarks.table2.cells import CELLS
from benchmarks.table2.measurement import STRATA, measured
from benchmarks.table2.options import Options, parse
from benchmarks.table2.verdicts import verdicts, why_none
from scoreflow.errors import RequestError, RunError
from scoreflow.runtime.environment import environment
from scoreflow.storage.atomic_files import Json, dumps, write_atomic
from scoreflow.storage.result_rows import Rows


def table(rows: list[Json]) -> str:
    """The rows of all cells as a Markdown table."""
    head = ["network predicts", "minimised", "variance", "bound, bits/dim", "exact, bits/dim"]
    head += ["two-sample accuracy"]
    return measure.table(head, (
        (cell.prediction, cell.title, cell.variance,
         *(number(row, key) for key in ("bound", "exact", "two_sample")))
        for cell, row in zip(CELLS, rows, strict=True)
    ))  # fmt: skip


def number(row: Json, key: str) -> str:
    """A measured number and its standard error, or why there is none."""
    if row[key] is None:
        return why_none(row, key)
    return f"{row[key]:.3f} ± {row[f'{key}_error']:.3f}"


def caption(options: Options, rows: list[Json]) -> str:
    """Settings and environment, in a line."""
    counts = [len(row["bound_each"]) for row in rows if row["bound"] is not None]
    others = "".join(f", {key} = {value}" for key, value in sorted(options.overrides.items()))
    commits = sorted({str(row["commit"]) for row in rows})
    config = options.config
    return (
        f"DDPM's Table 2 in small: config {options.experiment}{others}; {options.steps} training "
        f"steps a cell; {max(counts, default=0)} test images, the bound from {STRATA} strata of "
        f"its terms, at most {config['likelihood.max_evaluations']} evaluations an exact "
        f"likelihood; {options.images} samples of {config['sampling.steps']} steps, "
        "two-sample accuracy 0.5 is best; ± one standard error. "
        f"On {options.device}, commit {', '.join(commits)}, {_minutes(rows):.1f} minutes in all."
    )


def _minutes(rows: list[Json]) -> float:
    return sum(row["seconds"] for row in rows) / 60


def run(options: Options) -> None:
    """Measure the cells that are not there yet, and write OUT/table2.json and .md."""
    origin = {"command": shlex.join(options.command), **environment(str(options.device))}
    origin["sources"] = fingerprint()
    configs = [options.cell_config(cell) for cell in CELLS]
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {options.out} cannot be made ({error.strerror})") from error
    kept = Rows(options.out / "table2.rows.jsonl", options.settings(), key="cell")
    for k, (cell, config) in enumerate(zip(CELLS, configs, strict=True)):
        if k in kept.done:
            print(f"{cell.name}: there already", file=sys.stderr)
        else:
            found = measured(cell, config, options.device)
            kept.append([{"cell": k, "commit": origin["commit"], **found}])
    _write(options, [kept.done[k] for k in range(len(CELLS))], origin)
    kept.path.unlink()  # the next table is a new one


def _write(options: Options, rows: list[Json], origin: Json) -> None:
    """Write the record and the Markdown, and print the latter."""
    found = verdicts(rows)
    parts = caption(options, rows), table(rows), "\n".join(f"* {line}" for line in found)
    text = "\n\n".join(parts) + "\n"
    record = {"rows": rows, "verdicts": found, "settings": options.settings(), **origin}
    record |= {"minutes": _minutes(rows)}
    write_atomic(options.out / "table2.json", dumps(record, "table2.json", RunError, indent=1))
    write_atomic(options.out / "table2.md", text.encode())
    print(text)


def main(argv: list[str]) -> int:
    """Make the table; returns the exit status, as `scoreflow.cli.main` does."""
    interrupted = "stopped; the same command goes on after the cells that are done"
    return exit_status("table2", lambda: run(parse(argv)), interrupted)
