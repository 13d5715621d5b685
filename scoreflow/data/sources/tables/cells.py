"""The image in one cell of a table."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from scoreflow.data.sources.rows import MOST_CHANNELS, Array, Row, Source
from scoreflow.data.sources.tables.columns import Columns, Kind
from scoreflow.data.sources.tables.files import TableFile
from scoreflow.errors import RequestError


def table_rows(table: TableFile, columns: Columns, root: Path) -> Iterator[Row]:
    """The rows of a file: where each is, its image, its label as it stands there.

    Args:
        table: the file.
        columns: which of its columns are read.
        root: the folder below which images may lie that a cell names by their path.
    """
    index = 0
    read = [columns.image] + ([] if columns.label is None else [columns.label])
    for batch in table.batches(read):
        cells = _values(batch.column(columns.image), columns.kind)
        labels = None if columns.label is None else batch.column(columns.label).to_pylist()
        for k in range(batch.num_rows):
            where = f"{table.path} row {index}"
            source = _source(cells[k], columns.kind, (table.path.parent, root), where)
            yield where, source, None if labels is None else labels[k]
            index += 1


def _values(column: Any, kind: Kind) -> list[Any]:  # noqa: ANN401
    """The cells of a column as Python values; lists of bytes as bytes, without a list between."""
    if kind != "list":
        return list(column.to_pylist())
    return [
        c.values.to_numpy(zero_copy_only=False).tobytes() if c.is_valid else None for c in column
    ]


def _source(value: Any, kind: Kind, folders: tuple[Path, Path], where: str) -> Source:  # noqa: ANN401
    """The image of a cell; None for a null."""
    if value is None:
        return None
    if kind in ("bytes", "list"):
        return bytes(value)
    if kind == "pixels":
        return _pixels(value, where)
    if kind == "path":
        return _beside(value, folders, where)
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    return None if not value.get("path") else _beside(value["path"], folders, where)


def _pixels(value: object, where: str) -> Array:
    """Lists of levels, H x W, H x W x C or C x H x W, as (H, W[, C]) uint8."""
    try:
        found = np.array(value)
    except ValueError:  # rows of different lengths
        found = np.empty(0, object)
    if found.ndim not in (2, 3) or found.dtype.kind not in "iu":
        raise RequestError(
            f"{where}: lists of levels must be H x W or H x W x C, every row of one length; write "
            "the images as files' bytes instead"
        )
    low, high = int(found.min()), int(found.max())
    if low < 0 or high > 255:
        raise RequestError(f"{where}: levels in lists must lie in 0..255, got {low}..{high}")
    if found.ndim == 3 and found.shape[2] > MOST_CHANNELS >= found.shape[0]:
        found = found.transpose(1, 2, 0)
    return found.astype(np.uint8)


def _beside(text: str, folders: tuple[Path, Path], where: str) -> Path:
    """The file that a cell names by its path, which must not lead out of the folder."""
    own, root = folders
    path = PurePosixPath(text.replace("\\", "/"))
    if ".." in path.parts or (path.is_absolute() and not Path(path).is_relative_to(root)):
        raise RequestError(
            f"{where} names the file {text}, outside of {root}: images must lie in that folder, "
            "or in the table as bytes"
        )
    for folder in (own, root):
        if (folder / path).is_file():
            return folder / path
    raise RequestError(
        f"{where} names the file {text}, which is not in {own}: put it there, or write the images "
        "into the table as bytes"
    )
