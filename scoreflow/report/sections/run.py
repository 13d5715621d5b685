"""The run itself: its data, network and training, configuration and files."""

from collections.abc import Iterator
from pathlib import Path

from scoreflow.report.blocks import Block, Cell, Fold, Section, Table, plain
from scoreflow.report.results import Results, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "About this run"
FILES = ("config.json", "data.json", "env.json", "metrics.jsonl")
FOLDERS = ("results", "samples", "previews", "checkpoints")
UNLISTED = (".tmp", ".sha256")


def sections(results: Results) -> Iterator[Section]:
    """What made the weights, every key of the configuration, and links to the files."""
    env = results.environment() or {}
    facts = _facts(results, env)
    blocks: list[Block] = []
    if facts:
        rows = tuple((Cell(name), Cell(text)) for name, text in facts)
        blocks.append(Table(("", ""), rows, sortable=False, prose=True))
    if results.run.config:
        blocks.append(Fold("Configuration, every key", (_configuration(results.run.config),)))
    if env:
        rows = tuple((Cell(key), Cell(plain(value))) for key, value in env.items())
        table = Table(("", ""), rows, sortable=False, prose=True)
        blocks.append(Fold("Command and versions", (table,)))
    blocks.append(Fold("Files of this run", (_files(results.run.path),)))
    yield Section(TITLE, tuple(blocks))


def _facts(results: Results, env: Json) -> list[tuple[str, str]]:
    """Name and text of what is known of the run."""
    config = results.run.config
    found = results.show("training", _training) or {}
    facts = {
        "Data": found.get("Data") or _data(results),
        "Process": _process(config.get("sde")),
        "Network": ", ".join(_of(config.get("model"), found.get("parameters"))),
        "Training": ", ".join(_trained(results)),
        "Begun with": found.get("Begun with", ""),
        "Date": found.get("Date", ""),
        "Device": str(env.get("device_name") or env.get("device") or ""),
        "Code": f"commit {env['commit']}" if env.get("commit") else "",
    }
    return [(name, text) for name, text in facts.items() if text]


def _training(result: Json) -> dict[str, str]:
    """What the training recorded; runs of 0.1 have no such file."""
    data = result["data"]
    told = [f"{data['name']}: {data['num_train']} training and {data['num_test']} test"]
    if data["num_levels"] is None:
        told[0] += " points"
        told.append(f"{' x '.join(map(str, data['shape']))} real values each")
    else:
        told[0] += " images"
        told.append(f"{' x '.join(map(str, data['shape']))} (channels, height, width)")
        told.append(f"{data['num_levels']} levels")
    if data["num_classes"]:
        told.append(f"{data['num_classes']} classes")
    return {
        "Data": ", ".join(told),
        "parameters": f"{result['parameters']:,} parameters",
        "Date": str(result["date"]),
        "Begun with": _begun(result.get("init")),
    }


def _begun(init: Json | None) -> str:
    """The weights that the training did not begin without."""
    if not init:
        return ""
    return (
        f"the averaged weights of {init['source']}, step {init['step']} "
        f"(SHA-256 {init['sha256'][:12]}…)"
    )


def _data(results: Results) -> str:
    """As far as the configuration and the other results tell."""
    others = [measured_on(result) for result in results.by_name.values()]
    if any(others):  # the network is from elsewhere
        return "; ".join(["measured on " + each for each in dict.fromkeys(others) if each])
    name = _section(results.run.config, "data").get("name", "")
    tested = (results.by_name[key].get("data") for key in results.named("samples-"))
    counts = [each["num_test"] for each in tested if isinstance(each, dict) and "num_test" in each]
    levels = results.by_name.get("likelihood", {}).get("num_levels")
    told = [f"{name}: {counts[0]} test data"] if counts else [name] if name else []
    return ", ".join([*told, *([f"{levels} levels"] if levels else [])])


def _section(config: Json, name: str) -> Json:
    """A section of the configuration, {} if it has none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _process(sde: object) -> str:
    if not isinstance(sde, dict) or "name" not in sde:
        return ""
    schedule = f", {sde['schedule']} schedule" if sde["name"] in ("vp", "subvp") else ""
    return f"{sde['name']}{schedule}, {plain(sde.get('num_steps'))} steps"


def _of(model: object, parameters: str | None) -> list[str]:
    if not isinstance(model, dict) or "name" not in model:
        return [parameters] if parameters else []
    told = [f"{model['name']} that predicts {plain(model.get('prediction'))}"]
    return [*told, *([parameters] if parameters else [])]


def _trained(results: Results) -> list[str]:
    """Steps, images and time of the training."""
    rows, c = results.run.read_metrics(), _section(results.run.config, "training")
    if not rows:
        return []
    step, size = max(row["step"] for row in rows), c.get("batch_size")
    changed = any("training.batch_size" in each["changes"] for each in results.run.history)
    of = f" of {size} images" if isinstance(size, int) and not changed else ""
    told = [f"{step:,} steps{of}"]
    seconds = _seconds([row["seconds"] for row in rows if "seconds" in row])
    return [*told, *([f"{_duration(seconds)}"] if seconds else [])]


def _seconds(clock: list[float]) -> float:
    """The time of all parts of a training; the clock of each resumed part begins at 0."""
    ends = [a for a, b in zip(clock, [*clock[1:], 0.0], strict=True) if b < a]
    return sum(ends)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _configuration(config: Json) -> Table:
    rows = tuple((Cell(key), Cell(text)) for key, text in _flat(config))
    return Table(("key", "value"), rows, prose=True)


def _flat(config: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key with its section in front, and its value in words."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain(value)


def _files(run: Path) -> Table:
    """The run's files, each a link."""
    found = [run / name for name in FILES]
    for folder in FOLDERS:
        found += sorted((run / folder).glob("*"))
    kept = [path for path in found if path.is_file() and path.suffix not in UNLISTED]
    rows = tuple(
        (
            Cell(path.relative_to(run).as_posix(), link=path.relative_to(run).as_posix()),
            Cell(_size(path.stat().st_size), path.stat().st_size),
        )
        for path in kept
    )
    return Table(("file", "size"), rows)


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"
