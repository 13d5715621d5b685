"""A hash of the files that a result is of, on a machine without a git checkout too."""

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "configs", "samplers", "scoreflow", "sde")
"""Of the repository; in `scoreflow` the others are links, or copies where links are followed."""


def sources(root: Path = ROOT) -> list[Path]:
    """Python files that a measurement can depend on, below a copy of the repository, sorted."""
    found = [root / "run.py"]
    for folder in FOLDERS:
        found += _python_files(root / folder)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _python_files(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        if Path(here) == folder:  # scoreflow/sde is sde
            folders[:] = [name for name in folders if name not in FOLDERS]
        yield from (Path(here, name) for name in names if name.endswith(".py"))


@cache
def fingerprint(root: Path = ROOT) -> str:
    """16 hexadecimal digits of SHA-256 over torch's version, names and contents of `sources`.

    Of the version its first two numbers: what another one computes takes another time.
    """
    version = ".".join(metadata.version("torch").split(".")[:2])
    found = hashlib.sha256(f"torch {version}\n".encode())
    for path in sources(root):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()[:16]
