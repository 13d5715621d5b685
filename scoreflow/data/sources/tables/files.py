"""One Parquet or Arrow file: its columns, its number of rows, its rows batch by batch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoreflow.data.sources.rows import damaged
from scoreflow.errors import RequestError

SUFFIXES = (".parquet", ".arrow")
BATCH = 128
"""Rows decoded at a time: images are large."""

_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class TableFile:
    """A file of a table.

    Attributes:
        path: of the file.
        schema: pyarrow's.
        num_rows: how many it has.
    """

    path: Path
    schema: Any
    num_rows: int

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Its rows in order, as record batches of these columns."""
        try:
            if self.path.suffix.lower() == ".parquet":
                with _parquet().ParquetFile(self.path) as file:
                    yield from file.iter_batches(batch_size=BATCH, columns=columns)
            else:
                for batch in _record_batches(self.path):
                    yield batch.select(columns)
        except (ValueError, OSError, NotImplementedError) as error:
            if isinstance(error, RequestError):
                raise
            raise _damaged(self.path, error) from error

    def class_names(self, column: str) -> tuple[str, ...]:
        """The names of a column's classes, where the file or one beside it states them."""
        metadata = self.schema.metadata or {}
        texts = [metadata.get(b"huggingface", b""), *_beside(self.path)]
        for text in texts:
            names = _class_names(text, column)
            if names:
                return names
        return ()


def open_table(path: Path) -> TableFile:
    """A Parquet or Arrow file.

    Raises:
        RequestError: it is damaged, or only Git LFS's pointer to one.
    """
    refuse_pointer(path)
    try:
        if path.suffix.lower() == ".parquet":
            with _parquet().ParquetFile(path) as file:
                return TableFile(path, file.schema_arrow, file.metadata.num_rows)
        return TableFile(path, *_scanned(path))
    except (ValueError, OSError, NotImplementedError) as error:
        if isinstance(error, RequestError):
            raise
        raise _damaged(path, error) from error


def refuse_pointer(path: Path) -> None:
    """Refuse a file that Git LFS has not fetched yet; one that cannot be opened is none."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_POINTER))
    except OSError:
        return
    if begin == _POINTER:
        raise RequestError(
            f"{path} is a pointer of Git LFS, not the file itself: run `git lfs install` and "
            f"`git lfs pull` in {path.parent}"
        )


def _damaged(path: Path, error: Exception) -> RequestError:
    kind = f"{path.suffix.lower().removeprefix('.')} file"
    return damaged(str(path), kind, error)


def _parquet() -> Any:  # noqa: ANN401
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise RequestError(
            "reading Parquet and Arrow files needs pyarrow: pip install pyarrow"
        ) from error
    return parquet


def _record_batches(path: Path) -> Iterator[Any]:
    """The record batches of an Arrow file, in the stream format or the file format."""
    _parquet()
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            yield from pa.ipc.open_stream(source)
            return
        except pa.ArrowInvalid:
            source.seek(0)
            file = pa.ipc.open_file(source)
        for index in range(file.num_record_batches):
            yield file.get_batch(index)


def _scanned(path: Path) -> tuple[Any, int]:
    """An Arrow file's schema and number of rows."""
    _parquet()
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_stream(source)
            return reader.schema, sum(batch.num_rows for batch in reader)
        except pa.ArrowInvalid:
            source.seek(0)
            file = pa.ipc.open_file(source)
            every = range(file.num_record_batches)
            return file.schema, sum(file.get_batch(index).num_rows for index in every)


def _beside(path: Path) -> Iterator[bytes]:
    for name in ("dataset_info.json", "dataset_infos.json"):
        for folder in (path.parent, path.parent.parent):
            if (folder / name).is_file():
                yield (folder / name).read_bytes()


def _class_names(text: bytes, column: str) -> tuple[str, ...]:
    """The names of a ClassLabel, in what the library `datasets` writes of a table's features."""
    try:
        told = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return ()
    for info in (told, *told.values()) if isinstance(told, dict) else ():
        features = info.get("features") if isinstance(info, dict) else None
        feature = features.get(column) if isinstance(features, dict) else None
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, list) and names:
            return tuple(str(name) for name in names)
    return ()
