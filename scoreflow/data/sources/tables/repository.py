"""A folder of Parquet or Arrow files: a clone of a Hub repository, or what save_to_disk writes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from scoreflow.data.sources.layout import FOLDERS
from scoreflow.data.sources.names import are_shards, split_of_file, split_of_folder
from scoreflow.data.sources.rows import Found, Row, Rows, joined, some
from scoreflow.data.sources.tables.cells import table_rows
from scoreflow.data.sources.tables.columns import Columns, columns_of, holds_images
from scoreflow.data.sources.tables.files import TableFile, open_table
from scoreflow.errors import RequestError

DEFAULT = "default"
"""The configuration that the Hub takes where none is named."""

WRITTEN_BESIDE = frozenset({"dataset_dict.json", "dataset_info.json", "state.json"})
"""What save_to_disk writes beside its Arrow files, and push_to_hub beside Parquet."""


def one_table(path: Path, labels: str) -> Found:
    """A single file, whatever its name says of splits."""
    found = tables(path.parent, [path.name], labels, [])
    return replace(found, name=path.name, splits={"": joined(list(found.splits.values()))})


def only_describe(root: Path, files: Sequence[str]) -> bool:
    """Whether tables beside image files only describe them: none has a column of images."""
    schemas = [open_table(root / name).schema for name in files]
    from pyarrow import types

    return not any(holds_images(types, schema) for schema in schemas)


def tables(root: Path, files: Sequence[str], labels: str, others: Sequence[str]) -> Found:
    """The data set in Parquet or Arrow files, by the splits that their names or folders state.

    Args:
        root: the folder.
        files: their names below it, in order.
        labels: where the classes are: "auto" for the column `label`, "none", or a column's name.
        others: the names of the other files there.

    Raises:
        RequestError: there are several data sets in it, or files that cannot be read.
    """
    if labels == FOLDERS:
        raise RequestError(
            f"data.labels = folders is for folders of image files, and {root} holds tables: it "
            "can be auto, none or a column's name"
        )
    chosen, left_out = _one_configuration(root, files)
    by_split, unsplit = _by_split(chosen)
    opened = {
        split: [_with_columns(open_table(root / name), labels) for name in members]
        for split, members in by_split.items()
    }
    every = [each for members in opened.values() for each in members]
    told = dict.fromkeys(remark for _, columns in every for remark in columns.remarks)
    labelled = next(((t, c.label) for t, c in every if c.label is not None), None)
    names = () if labelled is None or labelled[1] is None else labelled[0].class_names(labelled[1])
    return Found(
        name=root.resolve().name,
        root=f"{root}/",
        splits={split: _rows(members, root) for split, members in opened.items()},
        classes_by="" if labelled is None else f"column `{labelled[1]}`",
        class_names=names,
        unlabelled="" if labelled else next((c.unlabelled for _, c in every), ""),
        sure=labels not in ("auto", "none"),
        remarks=tuple(told),
        left_out=(*left_out, *unsplit, *(o for o in others if Path(o).name not in WRITTEN_BESIDE)),
    )


def _with_columns(table: TableFile, labels: str) -> tuple[TableFile, Columns]:
    from pyarrow import types

    return table, columns_of(types, table.schema, labels, str(table.path))


def _rows(members: Sequence[tuple[TableFile, Columns]], root: Path) -> Rows:
    def rows() -> Iterator[Row]:
        for table, columns in members:
            yield from table_rows(table, columns, root)

    where = str(members[0][0].path) if len(members) == 1 else str(members[0][0].path.parent)
    return rows(), sum(table.num_rows for table, _ in members), where


def _split(name: str) -> str:
    """The split of a table: what its file's name states, or else a folder that it lies in."""
    path = PurePosixPath(name)
    folders = (split_of_folder(part) for part in reversed(path.parts[:-1]))
    return split_of_file(path.stem) or next((split for split in folders if split), "")


def _configuration(name: str) -> str:
    """The folders of a table but those that are splits: which of several data sets it is of."""
    folders = PurePosixPath(name).parts[:-1]
    return "/".join(part for part in folders if not split_of_folder(part))


def _one_configuration(root: Path, files: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files of the one data set that is meant, and the others."""
    every = dict.fromkeys(_configuration(name) for name in files)
    if len(every) == 1 or are_shards(every):
        return list(files), []
    if DEFAULT not in every:
        raise RequestError(
            f"{root} holds {len(every)} data sets: {some(each or '.' for each in every)}; pass "
            "the path of one of them, as "
            f"--config.data.path={root / next(each for each in every if each)}"
        )
    others = [name for name in files if _configuration(name) != DEFAULT]
    return [name for name in files if _configuration(name) == DEFAULT], others


def _by_split(files: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Files by split, and those that state none where others do."""
    found: dict[str, list[str]] = {}
    for name in files:
        found.setdefault(_split(name), []).append(name)
    unsplit = found.pop("", []) if len(found) > 1 else []
    return found, unsplit
