"""Resumable cases of a comparison: a row and a picture each, made once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from scoreflow.runtime import distributed
from scoreflow.storage.atomic_files import Json, make_folder, write_atomic
from scoreflow.storage.result_rows import Rows

K = TypeVar("K")


@dataclass(frozen=True)
class CachedCases(Generic[K]):
    """Cases by key.

    Attributes:
        rows: where their rows are kept.
        names: of the rows.
        paths: of the pictures.
    """

    rows: Rows
    names: dict[K, str]
    paths: dict[K, Path]

    def missing(self) -> list[K]:
        """The keys without a row or a picture, as the first process finds them."""
        own = [
            key
            for key, name in self.names.items()
            if name not in self.rows.done or not self.paths[key].exists()
        ]
        found: list[K] = distributed.shard().broadcast_from_rank_0(own)
        return found

    def keep(self, key: K, row: Json, png: bytes) -> None:
        """Write a case's picture, then its row."""
        path = self.paths[key]
        make_folder(path.parent)
        write_atomic(path, png)
        self.rows.append([{"case": self.names[key], **row}])


def kept(rows: Rows, case: str, make: Callable[[], Json]) -> Json:
    """The row of a case without its name: what is there, or what is made now."""
    if case not in rows.done:
        rows.append([{"case": case, **make()}])
    return {key: value for key, value in rows.done[case].items() if key != "case"}
