"""Tables of real numbers: .npy, .npz, .csv, .tsv and Parquet files, a row a datum.

Values are taken as they stand, float32: a density is that of the columns in their own units, so
nothing is standardised here. Networks and noise expect columns of about unit scale; others are
said, or refused where nothing could be learned from them.
"""

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoreflow.data.dataset import Data
from scoreflow.data.split import cut
from scoreflow.errors import RequestError, first_line
from scoreflow.paths import user_path

Array = np.ndarray[Any, Any]
KINDS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
NAMES = ("data", "x", "X", "arr_0")
"""Arrays of an .npz that are taken for the table where there are several."""
USUAL, MOST = 5.0, 1e4
"""Factors by which a standard deviation may be off 1 before it is said, and before it is refused:
in float32 a column of 1e4 keeps three digits of noise of scale 1."""
SHOWN, READ = 4, 12
"""Columns that a message names, and that the line of those that are read does."""
INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""What pandas calls the column of its row numbers, in CSV, in CSV read and written again, and in
Parquet."""


def load_vectors(path: str, test_fraction: float = 0.2, split_seed: int = 0) -> Data:
    """The rows of a table, a part of which is held out.

    Args:
        path: a file of one of `KINDS`; of a folder, all its Parquet files.
        test_fraction: share held out, in [0, 1); with 0 all rows are both parts.
        split_seed: seed of that split.

    Raises:
        RequestError: there is no such table, or a value of it is no finite number.
    """
    file = user_path(path, "data.path")
    values, names, said = _table(file, path)
    if values.ndim != 2 or values.shape[1] == 0:
        raise RequestError(f"{path}: a table must be (rows, columns), got {values.shape}")
    if len(values) < 2:
        raise RequestError(f"{path}: a table needs 2 rows or more, got {len(values)}")
    vectors = values.astype(np.float32)
    if not np.isfinite(vectors).all():
        row, column = np.argwhere(~np.isfinite(vectors))[0]
        raise RequestError(
            f"{path}: every value must be a finite float32 number, got {values[row, column]} in "
            f"row {row}, column {_name(names, int(column))}; remove the row, or the column"
        )
    rows, remarks = torch.from_numpy(vectors), (*said, *remarks_of(path, values, names))
    pool = Data(file.name, rows, rows, None, None, None, remarks=remarks)
    return cut(pool, test_fraction, split_seed)


def remarks_of(path: str, values: Array, names: Sequence[str] = ()) -> tuple[str, ...]:
    """A line each for what is to be known of vectors: their scales, and what pictures show.

    Args:
        path: what they are called in messages.
        values: (n, D), finite, n >= 2.
        names: of the columns; empty where they have none.

    Raises:
        RequestError: a column is constant, or hopelessly far from unit scale.
    """
    remarks = _scales(path, values, names)
    if values.shape[1] > 2:
        line = f"vectors of {values.shape[1]} numbers: pictures show the first two alone"
        remarks = (*remarks, line)
    return remarks


def _scales(path: str, values: Array, names: Sequence[str]) -> tuple[str, ...]:
    """What is to be known of the columns' scales.

    Raises:
        RequestError: a column is constant, or hopelessly far from unit scale.
    """
    wide = values.astype(np.float64)
    spread, centre = wide.std(0), np.abs(wide.mean(0))
    remedy = (
        "standardise the columns, x = (x - mean) / std, and take the sum of log std off each "
        "log-likelihood to have it in the old units"
    )
    if not spread.all():
        column = _some([_name(names, int(k)) for k in np.flatnonzero(spread == 0)])
        raise RequestError(f"{path}: constant columns have no density, got {column}; remove them")
    bad = (spread > MOST) | (spread < 1 / MOST) | (centre > MOST)
    if bad.any():
        column = _some([_name(names, int(k)) for k in np.flatnonzero(bad)])
        raise RequestError(
            f"{path}: columns must be of about unit scale, got standard deviations from "
            f"{spread.min():.3g} to {spread.max():.3g} and means up to {centre.max():.3g} "
            f"({column}); {remedy}"
        )
    if spread.max() > USUAL or spread.min() < 1 / USUAL or centre.max() > USUAL:
        return (
            f"columns have standard deviations from {spread.min():.3g} to {spread.max():.3g} and "
            f"means up to {centre.max():.3g}, where networks expect about 1 and 0: {remedy}",
        )
    return ()


def _name(names: Sequence[str], column: int) -> str:
    return repr(names[column]) if names else str(column)


def _some(names: list[str], shown: int = SHOWN) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _columns(names: list[str], left_out: list[str]) -> tuple[str, ...]:
    """A line of the columns that are read, by their names."""
    out = f"; pandas' index (the column {left_out[0]!r}) is left out" if left_out else ""
    return (f"columns: {_some(names, READ)}{out}",) if names else ()


# ---- files --------------------------------------------------------------------------------------


def _table(file: Path, path: str) -> tuple[Array, list[str], tuple[str, ...]]:
    """The values of a file, the names of its columns, or none, and what was left out."""
    if path and file.is_dir() and any(file.glob("*.parquet")):
        return _parquet(file)
    suffix = file.suffix.lower()
    if not path or not file.is_file() or suffix not in KINDS:
        raise RequestError(
            f"no such table: {path!r}; data.path must name a file that ends in {', '.join(KINDS)} "
            "or a folder of Parquet files"
        )
    if suffix == ".parquet":
        return _parquet(file)
    said: tuple[str, ...] = ()
    try:
        if suffix in (".csv", ".tsv"):
            return _text(file, path)
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray) == (suffix == ".npz"):
            raise ValueError(f"its content is not that of a {suffix} file")
        if suffix == ".npz":
            found, said = _of_archive(found, path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path}: not a table of numbers ({first_line(error)})") from error
    return _numbers(found, path), [], said


def _of_archive(
    archive: Any,  # noqa: ANN401  # numpy does not name its type
    path: str,
) -> tuple[Array, tuple[str, ...]]:
    """The table among the arrays of an .npz, and which of them are left out."""
    names = list(archive)
    name = names[0] if len(names) == 1 else next((n for n in NAMES if n in names), None)
    if name is None:
        raise RequestError(
            f"{path}: of several arrays one must be called {', '.join(NAMES)}, got "
            f"{_some(names)}; rename the table"
        )
    found: Array = archive[name]
    unread = [other for other in names if other != name]
    return found, (f"{path}: its arrays {_some(unread)} are not read",) if unread else ()


def _numbers(values: Array, path: str) -> Array:
    if values.dtype.kind not in "iufb":
        raise RequestError(f"{path}: a table must hold real numbers, got {values.dtype}")
    return values


def _text(file: Path, path: str) -> tuple[Array, list[str], tuple[str, ...]]:
    """Numbers between commas, semicolons or tabs; a first line without a number names them."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = enumerate(stream, start=1)
        number, first = next(((k, line) for k, line in lines if line.strip()), (0, ""))
        data = any(line.strip() for _, line in lines)
    mark = max(",;\t", key=first.count)
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=mark), [])]
    numbers = [_is_number(cell) for cell in cells]
    counted = cells == ["", *map(str, range(len(cells) - 1))]  # a DataFrame without names
    names = [] if (any(numbers) and not counted) or not any(cells) else cells
    if not any(cells) or (names and not data):
        held = f"no row but its column names, {_some(names)}" if names else "a first line without"
        raise RequestError(f"{path}: a table needs rows of numbers, got {held}")
    if not all(numbers) and not names:
        column = numbers.index(False)
        raise RequestError(
            f"{path}: every value must be a number, got {cells[column]!r} in row 0, column "
            f"{column}, beside numbers, so that it is no line of names; mend or remove the row"
        )
    left_out = [name for name in names[:1] if name in INDEX]
    values = np.loadtxt(
        file,
        usecols=range(1, len(names)) if left_out else None,
        delimiter=mark,
        skiprows=number if names else 0,
        ndmin=2,
        encoding="utf-8-sig",
        comments=None,
        quotechar='"',
    )
    names = names[len(left_out) :]
    return values, names, _columns(names, left_out)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: Path) -> tuple[Array, list[str], tuple[str, ...]]:
    """All columns of a Parquet file, or of a folder of them; each must be of numbers."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise RequestError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        table = arrow.concat_tables([parquet.read_table(file) for file in files])
    except (ValueError, OSError) as error:
        raise RequestError(f"{path}: not Parquet of one schema ({first_line(error)})") from error
    left_out = [name for name in table.column_names if name in INDEX]
    table = table.drop_columns(left_out)
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        kinds = (arrow.types.is_integer, arrow.types.is_floating, arrow.types.is_boolean)
        if not any(kind(field.type) for kind in kinds):
            raise RequestError(
                f"{path}: every column must hold numbers, got {field.type} in {field.name!r}; "
                "write the table without it"
            )
        if column.null_count:
            raise RequestError(
                f"{path}: {column.null_count} values of column {field.name!r} are missing; remove "
                "their rows, or the column"
            )
        columns.append(column.to_numpy().astype(np.float64))
    values = np.stack(columns, axis=1) if columns else np.empty((0, 0))
    return values, list(table.column_names), _columns(table.column_names, left_out)
