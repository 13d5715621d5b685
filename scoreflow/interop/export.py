"""A network out of a run, in a format that other codebases read: one new folder or file, whole."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from scoreflow.errors import RequestError, RunError, did_you_mean, first_line
from scoreflow.interop.diffusers import writer
from scoreflow.interop.imported import Exported
from scoreflow.storage.atomic_files import reason_of, replacing
from scoreflow.storage.regular_files import sweep, temporary_folder
from scoreflow.version import __version__


def export(network: Exported, to: str, out: Path) -> Path:
    """Write a network.

    Args:
        network: of a run.
        to: one of `TARGETS`.
        out: a folder or file that is not there yet.

    Raises:
        RequestError: the format cannot express the network, or `out` is there already.
    """
    if to not in TARGETS:
        hint = did_you_mean(to, TARGETS, f"it is one of {', '.join(TARGETS)}")
        raise RequestError(f"unknown format {to!r} to export to; {hint}")
    if out.exists():
        raise RequestError(f"{out} is there already: choose another place")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make {out.parent} ({error.strerror})") from error
    sweep(out.parent, out.name)  # what a kill left
    TARGETS[to](network, out)
    return out


def _diffusers(network: Exported, out: Path) -> None:
    """A folder as DDPMPipeline.save_pretrained writes it."""
    files = writer.files(network)
    with _told(out), temporary_folder(out) as hidden:
        for name, content in files.items():
            path = hidden / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".json"):
                path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
            else:
                _save(content, path, {"format": "pt"})
        hidden.rename(out)


def _safetensors(network: Exported, out: Path) -> None:
    """A file of our names, with the run's config in its metadata."""
    metadata = {
        "format": "pt",
        "scoreflow": __version__,
        "weights": network.which,
        "step": str(network.step),
        "shape": json.dumps(network.event),
        "config": json.dumps(network.config.to_dict(), sort_keys=True),
    }
    with _told(out), replacing(out) as temporary:
        _save(network.weights, temporary, metadata)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """What the disk refuses, as a line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else first_line(error)
        raise RunError(f"cannot write {out} ({reason}): nothing is left of it") from error


def _save(tensors: object, path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    assert isinstance(tensors, dict), "by name"
    named: dict[str, Tensor] = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    save_file(named, path, metadata)


TARGETS: dict[str, Callable[[Exported, Path], None]] = {
    "diffusers": _diffusers,
    "safetensors": _safetensors,
}
"""Formats, and what writes each."""
