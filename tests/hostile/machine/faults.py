"""A disk on which the k-th call fails: of those that make, write, flush, move or remove files."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "open")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """Calls on files below a folder, counted; from number `first` on, `lasting` of them fail.

    Args:
        folder: of the files.
        first: number of the call that fails, from 0; -1 for none.
        number: errno.
        lasting: how many calls fail, as of a disk that is full for a while.
    """

    def __init__(
        self, folder: Path, first: int = -1, number: int = errno.EIO, lasting: int = 1
    ) -> None:
        self.folder, self.first, self.number, self.lasting = folder, first, number, lasting
        self.calls: list[str] = []

    def call(self, name: str, where: object) -> None:
        """Count a call, and raise if its turn has come."""
        path = self._path(where)
        if not path.startswith(str(self.folder)):
            return
        self.calls.append(f"{name} {path[len(str(self.folder)) :]}")
        turn = len(self.calls) - 1 - self.first
        full = self.number == errno.ENOSPC and name == "unlink"  # which takes no room
        if self.first >= 0 and 0 <= turn < self.lasting and not full:
            if name == "write":
                raise OSError(self.number, os.strerror(self.number))  # which names no file
            raise OSError(self.number, os.strerror(self.number), path)

    def _path(self, where: object) -> str:
        if isinstance(where, int):
            try:
                return os.readlink(f"/proc/self/fd/{where}")
            except OSError:
                return ""
        known = isinstance(where, str | bytes | os.PathLike)
        return os.path.abspath(os.fsdecode(where)) if known else ""


class File:
    """An open file that counts what is written."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        """As the file's."""
        self._disk.call("write", self._file.fileno())
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """Have the calls of this process go to that disk."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            real = getattr(os, name) if name != "fsync" else (lambda _: None)  # which takes long
            patch.setattr(os, name, _counted(name, real, disk))
        plain = io.open

        def opening(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if not set(mode) & set("wax+"):
                return plain(path, mode, *more, **named)
            if not isinstance(path, int):
                disk.call("open", path)
            file = plain(path, mode, *more, **named)
            below = disk._path(file.fileno()).startswith(str(disk.folder))
            return File(file, disk) if below else file

        patch.setattr(io, "open", opening)
        patch.setattr(builtins, "open", opening)
        yield disk


def _counted(name: str, function: Callable[..., Any], disk: Disk) -> Callable[..., Any]:
    def call(first: Any, *more: Any, **named: Any) -> Any:
        quiet = name == "open" and not (more[0] if more else named.get("flags", 0)) & WRITING
        if not quiet and named.get("dir_fd") is None:
            disk.call(name, first)
        return function(first, *more, **named)

    return call
