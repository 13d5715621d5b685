"""Runs side by side: what differs in their configs, bits/dim, samples, time.

It is made from the files of their folders alone: no weights and no data are read.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scoreflow.errors import RequestError, RunError, did_you_mean, first_line
from scoreflow.paths import user_path
from scoreflow.report.blocks import Cell, Section, Table, Text, plain, with_error
from scoreflow.report.html import render
from scoreflow.report.results import DAMAGE, Results, flat, measured_on
from scoreflow.schema.resolve import completed
from scoreflow.storage.atomic_files import Json, write_atomic
from scoreflow.storage.regular_files import sweep
from scoreflow.storage.run_folder import RunDir

SECTIONS = ("sde", "model", "training", "data", "seed")
"""Of a config, what the weights depend on: the most telling first."""
MOST_KEYS = 8
"""Columns of differing keys that are shown; files have all."""
UNSHOWN = ("training.num_steps", "training.log_every", "training.checkpoint_every")
"""Keys that another column has, or that no weight depends on."""
ENDINGS = (".html", ".csv", ".json")
"""Of files that a table is written to."""
OLD_METRIC = "two-sample accuracy"
"""What `value` was in results of samples that do not name it."""
DASH = "-"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet takes for a formula."""


@dataclass(frozen=True)
class Entry:
    """A value in the table.

    Attributes:
        value: a number, or a text.
        error: its standard error, None where it has none.
        form: of a number.
    """

    value: float | str
    error: float | None = None
    form: str = ".4f"

    @property
    def text(self) -> str:
        """As it is shown."""
        if isinstance(self.value, str):
            return self.value
        return with_error(self.value, self.error, self.form)


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes:
        name: its folder's.
        path: of the folder, as it was given.
        entries: what is known of it, by column.
        config: the keys that the weights depend on.
        reasons: why something is not known, a line each.
    """

    name: str
    path: str
    entries: dict[str, Entry]
    config: Json = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def is_run(self) -> bool:
        """Whether there is any: a config, or results of one."""
        return bool(self.entries or self.config)


@dataclass(frozen=True)
class RunTable:
    """Runs side by side; printed, it is a table for the terminal.

    Attributes:
        columns: in order; the first is the run's name.
        keys: those of the columns that are keys of the config.
        rows: sorted.
    """

    columns: tuple[str, ...]
    keys: tuple[str, ...]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        """The table, and below it why something is missing."""
        shown = self._shown
        cells = [list(shown), *([self._text(row, name) for name in shown] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in cells
        ]
        return "\n".join([*lines, *self.remarks])

    @property
    def remarks(self) -> list[str]:
        """What is missing and why; keys without room."""
        found = [f"{row.name}: {reason}" for row in self.rows for reason in row.reasons]
        left = len(self.keys) - MOST_KEYS
        if left > 0:
            found.append(f"{left} more keys differ; --out FILE.csv or FILE.json has all")
        return found

    def as_json(self) -> list[Json]:
        """A dict a run: its path, the columns that it has, and reasons for those that it lacks."""
        return [
            {
                "run": row.name,
                "path": row.path,
                **{
                    name: {"value": entry.value, "standard_error": entry.error}
                    for name, entry in row.entries.items()
                },
                "config": {key: row.config.get(key) for key in self.keys},
                "reasons": list(row.reasons),
            }
            for row in self.rows
        ]

    def as_csv(self) -> str:
        """A line a run; an error in a column of its own.

        A text that a spreadsheet would take for a formula has an apostrophe in front.
        """
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        with_errors = [
            name
            for name in self.columns
            if any(name in row.entries and row.entries[name].error for row in self.rows)
        ]
        heads = [*self.columns, *(f"{name} error" for name in with_errors), "path", "reasons"]
        writer.writerow(map(_inert, heads))
        for row in self.rows:
            values = [self._value(row, name) for name in self.columns]
            errors = [row.entries[n].error if n in row.entries else "" for n in with_errors]
            line = [*values, *errors, row.path, "; ".join(row.reasons)]
            writer.writerow(map(_inert, line))
        return stream.getvalue()

    def as_html(self) -> str:
        """A page that stands alone; a click on a heading sorts."""
        rows = tuple(
            tuple(Cell(self._text(row, n).replace("+-", "±"), self._number(row, n)) for n in shown)
            for row in self.rows
            for shown in (self._shown,)
        )
        notes = [Text(line, small=True) for line in self.remarks]
        section = Section("Runs side by side", (Table(self._shown, rows), *notes))
        return render("page.html", [], title="Runs", sections=[section], headlines=[])

    def write(self, path: str | Path) -> Path:
        """Write it, in the format of the file's ending.

        Raises:
            RequestError: another ending, or the file cannot be written.
        """
        path = user_path(path, "the table's file")
        check_ending(path)
        match path.suffix.lower():
            case ".html":
                text = self.as_html()
            case ".csv":
                text = self.as_csv()
            case _:
                text = json.dumps(self.as_json(), indent=2) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent, path.name)  # what a kill left
            # a folder's name may be no UTF-8
            write_atomic(path, text.encode("utf-8", "backslashreplace"))
        except (OSError, RunError) as error:
            raise RequestError(f"cannot write the table: {first_line(error)}") from error
        return path

    @property
    def _shown(self) -> tuple[str, ...]:
        left_out = self.keys[MOST_KEYS:]
        return tuple(name for name in self.columns if name not in left_out)

    def _text(self, row: Row, column: str) -> str:
        if column == "run":
            return row.name
        if column in self.keys:
            return plain(row.config[column]) or '""' if column in row.config else DASH
        entry = row.entries.get(column)
        return DASH if entry is None else entry.text.replace("±", "+-")

    def _value(self, row: Row, column: str) -> object:
        if column == "run":
            return row.name
        if column in self.keys:
            return plain(row.config.get(column, ""))
        return row.entries[column].value if column in row.entries else ""

    def _number(self, row: Row, column: str) -> float | None:
        value = row.entries[column].value if column in row.entries else row.config.get(column)
        return float(value) if isinstance(value, int | float) else None


def table(runs: Sequence[str | Path], sort: str = "") -> RunTable:
    """Runs side by side, the best bits/dim first; from their folders' files, in no time.

    Args:
        runs: their folders.
        sort: a column: "steps", "dpm images/s", "sde.schedule", ...; with "-" in front the
            greatest first. "" for the likelihood.

    Returns:
        The table: print it, or `write` it to a file that ends in .html, .csv or .json.

    Raises:
        RequestError: no run is named, or there is no such column.
    """
    if isinstance(runs, str | Path) or not runs:
        raise RequestError(f"table takes a list of runs' folders, got {runs!r}")
    rows = [_read(path) for path in runs]
    rows = [_named(row, rows) for row in rows]
    keys = _differing(rows)
    known = list(dict.fromkeys(name for row in rows for name in row.entries))
    units = [str(name) for name in ("bits/dim", "nats") if name in known]
    others = [name for name in known if name not in ("steps", "parameters", *units, "n")]
    columns = ("run", *keys, "parameters", "steps", *units, "n", *others)
    shown = tuple(name for name in columns if name in ("run", *keys) or name in known)
    return RunTable(shown, keys, tuple(_sorted(rows, sort, shown, units)))


def _inert(value: object) -> object:
    """A value for a CSV file; numbers stay what they are."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which begins a line for some readers, and is not quoted
    if not value.startswith(FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def check_ending(path: Path) -> None:
    """Refuse a file that no table is written to, by its ending."""
    if path.suffix.lower() not in ENDINGS:
        raise RequestError(
            f"a table is written to a file that ends in {', '.join(ENDINGS)}, got {path}"
        )


# ---- a run --------------------------------------------------------------------------------------


def _read(given: str | Path) -> Row:
    """What the files of a run tell; whatever is wrong with them is a reason."""
    path = user_path(given, "a run's folder")
    name = path.resolve().name
    try:
        run = RunDir.open(path)
    except RequestError as error:
        return Row(name, str(given), {}, reasons=(str(error),))
    results = Results(run)
    reasons: list[str] = []
    entries: dict[str, Entry] = {}
    for made in (_training, _likelihood, _samples):
        try:
            found, why = made(results)
        except DAMAGE as error:
            found, why = {}, [f"{made.__name__.strip('_')}: damaged ({first_line(error)})"]
        entries |= found
        reasons += why
    try:
        config = completed(flat(run.config))
    except DAMAGE as error:
        config, reasons = {}, [*reasons, f"config.json: damaged ({first_line(error)})"]
    of_weights = {k: v for k, v in config.items() if k.split(".")[0] in SECTIONS}
    kept = {k: v for k, v in of_weights.items() if k not in UNSHOWN}
    return Row(name, str(given), entries, kept, (*reasons, *results.damaged))


def _training(results: Results) -> tuple[dict[str, Entry], list[str]]:
    """Parameters, steps and seconds, and whether it is done."""
    run = results.run
    entries: dict[str, Entry] = {}
    reasons: list[str] = []
    found = results.by_name.get("training", {})
    if "parameters" in found:
        entries["parameters"] = Entry(float(found["parameters"]), form=",.0f")
    rows, imported = run.read_metrics(), results.by_name.get("import")
    if imported is not None:
        reasons.append(f"imported from {imported.get('format', 'another codebase')}")
    steps = max([row["step"] for row in rows] + run.checkpoint_steps(), default=None)
    if steps is not None:
        entries["steps"] = Entry(float(steps), form=",.0f")
    wanted = (run.config.get("training") or {}).get("num_steps")
    if imported is None and isinstance(wanted, int) and (steps or 0) < wanted:
        reasons.append(f"not done: {steps or 0} of {wanted} steps")
    clock = [row["seconds"] for row in rows if isinstance(row.get("seconds"), int | float)]
    if clock:
        ends = [a for a, b in zip(clock, [*clock[1:], 0.0], strict=True) if b < a]
        entries["training, s"] = Entry(float(sum(ends)), form=",.1f")
    return entries, reasons


def _likelihood(results: Results) -> tuple[dict[str, Entry], list[str]]:
    """The headline, in its unit, and of how many data it is."""
    result = results.by_name.get("likelihood")
    if result is None:
        return {}, ["no likelihood: --mode likelihood measures it"]
    reasons = []
    if of := measured_on(result):
        reasons.append(f"likelihood of {of}")
    label = (result.get("settings") or {}).get("label", -1)
    if label not in (-1, "none"):
        reasons.append(f"likelihood given class {label}")
    value = Entry(float(result["value"]), result["standard_error"])
    count = Entry(float(result["num_images"]), form=",.0f")
    return {str(result["unit"]): value, "n": count}, reasons


def _samples(results: Results) -> tuple[dict[str, Entry], list[str]]:
    """Of each sampler the metric of its headline, and images/s."""
    entries: dict[str, Entry] = {}
    names = results.named("samples-")
    for name in names:
        result, sampler = results.by_name[name], name.removeprefix("samples-")
        if result.get("value") is not None:
            title = f"{sampler} {result.get('metric', OLD_METRIC)}".replace("_", " ")
            entries[title] = Entry(float(result["value"]), result["standard_error"], ".3f")
        if result.get("images_per_second") is not None:
            speed = Entry(float(result["images_per_second"]), form=".1f")
            entries[f"{sampler} images/s"] = speed
    return entries, [] if names else ["no samples: --mode sample draws them"]


def _named(row: Row, rows: list[Row]) -> Row:
    """A run by its path, where another folder has its name."""
    alike = sum(each.name == row.name for each in rows) > 1
    return Row(row.path, row.path, row.entries, row.config, row.reasons) if alike else row


# ---- the table ----------------------------------------------------------------------------------


def _differing(rows: list[Row]) -> tuple[str, ...]:
    """The keys that are not the same in all configs that have them, the most telling first."""
    configs = [row.config for row in rows if row.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    found = [key for key in keys if len({repr(each[key]) for each in configs if key in each}) > 1]
    order = {name: k for k, name in enumerate(SECTIONS)}
    return tuple(sorted(found, key=lambda key: order[key.split(".")[0]]))


def _sorted(rows: list[Row], sort: str, columns: tuple[str, ...], units: list[str]) -> list[Row]:
    """By a column, or by the likelihood; what lacks it comes last."""
    reverse, wanted = sort.startswith("-"), sort.removeprefix("-")
    if wanted and wanted not in columns:
        hint = did_you_mean(wanted, columns)
        raise RequestError(
            f"--sort takes a column, got {wanted!r}; {f'{hint} ' if hint else ''}they are "
            f"{', '.join(map(repr, columns))}"
        )

    def value(row: Row) -> float | str | None:
        if not wanted:
            return next((row.entries[unit].value for unit in units if unit in row.entries), None)
        if wanted == "run":
            return row.name
        if wanted in row.entries:
            return row.entries[wanted].value
        found = row.config.get(wanted)
        return found if found is None or isinstance(found, int | float) else str(found)

    def unit(row: Row) -> int:
        """Bits/dim and nats are no numbers of one kind."""
        return next((k for k, name in enumerate(units) if name in row.entries), 0)

    there = [row for row in rows if value(row) is not None]
    numbers = all(isinstance(value(row), int | float) for row in there)

    def key(row: Row) -> tuple[int, float, str]:
        own = value(row)
        number = float(own) if numbers and own is not None and not isinstance(own, str) else 0.0
        return (0 if wanted else unit(row), number, "" if numbers else str(own))

    there.sort(key=key, reverse=reverse)
    return there + [row for row in rows if value(row) is None]
