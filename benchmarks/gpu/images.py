"""The images of the stage cifar10: whether they are there, and the first of them alone."""

import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

from scoreflow.errors import RequestError

SPLITS = ("train", "test")
HUB = ("huggingface.co", 443)
PATIENCE = 5.0
"""Seconds in which the Hub must answer."""


def missing(data: Path | None) -> str:
    """Why the stage could not read its images; "" where it could.

    Args:
        data: folder of Parquet files; None for the Hub.
    """
    if data is not None:
        return "" if _installed("pyarrow") else "--data needs pyarrow: pip install pyarrow"
    ask = "no images: add --data DIR, a folder of CIFAR-10's Parquet files"
    if not _installed("datasets"):
        return f"{ask}, or pip install datasets, with which they come from the Hub"
    if os.environ.get("HF_HUB_OFFLINE") or _reached():  # offline: kept from an earlier visit
        return ""
    return f"{ask} ({HUB[0]} cannot be reached)"


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _reached() -> bool:
    try:
        socket.create_connection(HUB, timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def subset(data: Path, count: int, into: Path) -> Path:
    """A folder with the first `count` images of each split, written unless it is there.

    Raises:
        RequestError: a split is not there, or has fewer.
    """
    import pyarrow.parquet as parquet

    for split in SPLITS:
        file = into / f"{split}-00000-of-00001.parquet"
        if not file.exists():
            table = _first(data, split, count)
            into.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
    return into


def _first(data: Path, split: str, count: int) -> Any:  # noqa: ANN401  # pyarrow has no stubs
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    files = sorted(data.glob(f"*{split}*.parquet"))
    if not files:
        raise RequestError(
            f"--data {data} holds no *{split}*.parquet, of which --subset takes some"
        )
    table = arrow.concat_tables([parquet.read_table(file) for file in files])
    if len(table) < count:
        raise RequestError(
            f"--subset must be at most {len(table)}, the {split} images of {data}, got {count}"
        )
    return table.slice(0, count)
