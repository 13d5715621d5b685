"""Generate docs/config.md, the reference of all config keys, from their declarations.

python -m scoreflow.schema.docs > docs/config.md
"""

from collections.abc import Iterable

from scoreflow.schema import samplers, task_keys
from scoreflow.schema.config import EVALUATION, Config
from scoreflow.schema.ranges import Range
from scoreflow.schema.section import Key, Section, Value

INTRODUCTION = f"""# Config keys

    python run.py --mode train --config configs/digits.py --config.sde.schedule=cosine
    python run.py --mode sample --workdir runs/digits-vp --sampler dpm --config.sampling.steps=10

An experiment (`configs/*.py`) starts from these defaults and changes some;
`--config.SECTION.KEY=VALUE` changes one more. A run keeps its whole config in `config.json`.

Training takes every key, and fixes those marked "train"; those that are marked "resume" as well
may be given another value when it goes on ([runs.md](runs.md)). After it a mode takes those marked
"all modes", and the keys that have an effect on it, which lie in the sections
{", ".join(f"`{name}`" for name in EVALUATION)}.
A meaning that begins with names and a colon ("ve: ...") belongs to these choices alone: set for a
training under others, such a key is refused, with what would give it an effect. Keys added "later"
are missing in the oldest runs; the default does what these runs did.

This page is generated: `make docs`.
"""
HEADER = ("key", "default", "values", "meaning", "modes", "since")


def page() -> str:
    """The whole page, Markdown."""
    parts = [INTRODUCTION, _section(Config, "Top level")]
    parts += [_section(section, f"`{section.NAME}`") for section in Config.SECTIONS]
    return "\n".join([*parts, _samplers(), _tasks()])


def _section(section: type[Section], title: str) -> str:
    about = (section.__doc__ or "").splitlines()[0]
    keys = section.declarations()
    return f"## {title}\n\n{about}\n\n{_table(HEADER, map(_row, keys))}"


def _row(key: Key) -> tuple[str, ...]:
    since = "later" if key.later else "0.1"
    modes = ", ".join(key.modes) or ", ".join(filter(None, ("train", key.changes)))
    return (f"`{key.option}`", _code(key.default), _values(key), key.described, modes, since)


def _code(value: Value) -> str:
    """A value as a flag takes it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`({','.join(map(str, value))}{',' * (len(value) == 1)})`"
    return f"`{value}`" if value != "" else '`""`'


def _values(key: Key) -> str:
    """The type of a key, with its range or choices."""
    many = isinstance(key.default, tuple)
    kind = type(key.default[0]) if isinstance(key.default, tuple) else type(key.default)
    if key.choices:
        return ("names: " if many else "") + ", ".join(f"`{name}`" for name in key.choices)
    if key.classes:
        return "class or classes"
    if key.undecided:
        return "`true`, `false`, `auto`"
    if key.limits is None:
        return {bool: "`true`, `false`", str: "text"}[kind]
    word = {int: "whole number", float: "number"}[kind] + ("s" if many else "")
    return f"{word} in {_range(key.limits)}"


def _range(limits: Range) -> str:
    return f"{limits.ends[0]}{_number(limits.low)}, {_number(limits.high)}{limits.ends[1]}"


def _number(value: float) -> str:
    """A bound; large powers of two as such."""
    whole = int(value) if value == value // 1 and abs(value) < 2**63 else 0
    if whole >= 2**15 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return str(whole) if whole == value else f"{value:g}"


def _samplers() -> str:
    rows = (
        (f"`{name}`", entry.meaning, _codes(entry.keys), "yes" if entry.high_order else "")
        for name, entry in samplers.SAMPLERS.items()
    )
    table = _table(("sampler", "method", "keys of `sampling`", "high order"), rows)
    return (
        "## Samplers\n\nThose of high order are made for few steps: "
        f"{samplers.FEW_STEPS} on the `log_snr` grid unless the config says otherwise.\n\n{table}"
    )


def _tasks() -> str:
    rows = ((f"`{task}`", _codes(keys)) for task, keys in task_keys.TASKS.items())
    methods = ((f"`{name}`", _codes(keys)) for name, keys in task_keys.METHODS.items())
    return (
        "## Editing tasks\n\nBy `sampling.task`:\n\n"
        f"{_table(('task', 'keys of `control`'), rows)}\n"
        f"By `control.method`, also:\n\n{_table(('method', 'keys of `control`'), methods)}"
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")  # which would end the cell


if __name__ == "__main__":
    print(page(), end="")
