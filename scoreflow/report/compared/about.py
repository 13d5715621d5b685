"""The runs of a comparison, its settings and its files."""

from collections.abc import Iterator

from scoreflow.report.blocks import Block, Cell, Fold, Section, Table, number, plain
from scoreflow.report.results import Results, flat
from scoreflow.storage.atomic_files import Json

TITLE = "About this comparison"


def sections(results: Results) -> Iterator[Section]:
    """Folders and weights of the runs, the settings of all, command and versions."""
    found = results.show("runs", _runs)
    if found is None:
        return
    blocks: list[Block] = [found]
    settings = results.show("runs", lambda result: _settings(result["settings"]))
    if settings is not None:
        blocks.append(Fold("Settings, of all runs", (settings,)))
    if env := results.environment():
        rows = tuple((Cell(key), Cell(plain(value))) for key, value in env.items())
        blocks.append(
            Fold("Command and versions", (Table(("", ""), rows, sortable=False, prose=True),))
        )
    yield Section(TITLE, tuple(blocks))


def _runs(result: Json) -> Table:
    rows = tuple(
        (
            Cell(each["name"]),
            Cell(each["path"]),
            number(each["step"], form=",.0f"),
            Cell("-") if each["parameters"] is None else number(each["parameters"], form=",.0f"),
            Cell(f"{each['weights'][:12]}…"),
        )
        for each in result["runs"]
    )
    return Table(("run", "folder", "step", "parameters", "SHA-256 of the weights"), rows)


def _settings(settings: Json) -> Table:
    rows = tuple((Cell(key), Cell(plain(value))) for key, value in flat(settings).items())
    return Table(("key", "value"), rows, prose=True)
