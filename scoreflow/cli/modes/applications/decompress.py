"""--mode decompress: the images of a file, bit for bit, or none."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoreflow.cli.console import say
from scoreflow.cli.modes.applications import progressive
from scoreflow.cli.modes.applications.chains import (
    LAWS,
    MACHINE,
    Laws,
    chain_of,
    digest_of,
    machine_of,
)
from scoreflow.cli.modes.applications.targets import refuse_taken
from scoreflow.data.levels import spread, to_uint8
from scoreflow.errors import RequestError, RunError
from scoreflow.likelihood.compression.ans_stack import WrongBitsError, refuse_without_coder
from scoreflow.likelihood.compression.archive import Header, of_bytes
from scoreflow.likelihood.compression.bits_back import Grid
from scoreflow.likelihood.compression.chain import Chain
from scoreflow.likelihood.compression.coding import Words, check, decode
from scoreflow.likelihood.compression.progressive.file import (
    ProgressiveFile,
    is_progressive,
    unpacked,
)
from scoreflow.models.score_model import arithmetic
from scoreflow.paths import user_path
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import reason_of
from scoreflow.storage.image_files import NpzFile, PngFolder
from scoreflow.storage.regular_files import temporary_folder
from scoreflow.storage.validation import InvalidError, read_bytes
from scoreflow.trained_run import TrainedRun, open_run

MOST_THREADS = 1024


def run(request: Request, _argv: list[str]) -> None:
    """Decode all of the file, check it, and only then write its images."""
    assert request.source is not None, "the command line refuses it without --in"
    assert request.target is not None, "and without --out"
    refuse_without_coder()
    out = request.target.path
    refuse_taken(out, folder=True)
    where = user_path(request.source.path, "--in")
    content = _read(where)
    if is_progressive(content):
        _progressive(request, content, where, out)
        return
    if request.overrides.get("compress.stop"):
        raise RequestError(
            f"compress.stop: {where} is lossless, and no part of it is an image: leave it out, or "
            "compress with it"
        )
    header, words = of_bytes(content, str(where))
    trained = _run_of(request, header, where)
    _refuse_other(trained, header, where)
    chain = _chain(trained, header, where)
    here = machine_of(trained.experiment.device)
    other = f"it was written by {header.machine}, and this is {here} ({MACHINE})"
    if header.machine != here:
        say(f"{where}: {other}: if the network's answers differ, nothing will be written")
    grid = Grid.of(chain, header.bits, trained.experiment.device)
    levels = _decoded(grid, header, words, f"{where}: {other}" if header.machine != here else "")
    _write(levels, header, out)
    say(f"{out}: {header.count} images, as they were encoded (CRC-32 of every block)")


def _progressive(request: Request, content: bytes, where: Path, out: Path) -> None:
    """The images of a file that was sent down to a time, as it has them there or before."""
    file = unpacked(content, str(where))
    trained = _run_of(request, file, where)
    levels, t = progressive.decode(trained, file, str(where), trained.config.compress.stop)
    _write(levels, file, out)
    say(f"{out}: {file.count} images, as they are known at t = {t}")


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise RequestError(f"--in: there is no file {path}") from error
    except (OSError, InvalidError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise RequestError(f"--in: {path} cannot be read ({reason})") from error


def _run_of(request: Request, header: Header | ProgressiveFile, where: Path) -> TrainedRun:
    """The run of --workdir, or else that which the file names."""
    workdir = request.workdir
    if workdir is None:
        workdir = user_path(header.run, f"the run of {where}")
        if not (workdir / "config.json").exists():
            raise RequestError(
                f"{where} was written with the run {header.run}, which is not there: name it by "
                "--workdir DIR"
            )
    overrides = {**request.overrides, "sampling.step": header.step}
    return open_run(replace(request, workdir=workdir, overrides=overrides), say)


def _refuse_other(trained: TrainedRun, header: Header, where: Path) -> None:
    """Refuse another network, or images of another kind."""
    shape, levels = tuple(trained.like.train.shape[1:]), trained.like.num_levels
    if (header.shape, header.num_levels) != (shape, levels):
        raise RequestError(
            f"{where} holds images {header.shape} of {header.num_levels} levels, and those of "
            f"{trained.folder.path} are {shape} of {levels}: name its run by --workdir DIR"
        )
    if bytes.fromhex(trained.fingerprint)[:16] != header.weights:
        raise RequestError(
            f"{where} was written with other weights than those of {trained.folder.path} (SHA-256 "
            f"{header.weights.hex()[:8]}..., got {trained.fingerprint[:8]}...): name its run by "
            "--workdir DIR"
        )


def _chain(trained: TrainedRun, header: Header, where: Path) -> Chain:
    laws = Laws(header.steps, header.seed, header.fitted)
    with _threads(header.threads):  # if they are measured again, as the encoder did
        chain, choice = chain_of(trained, laws, keep=False)
    if bytes.fromhex(digest_of(choice))[:8] != header.laws:
        raise RequestError(
            f"{where} was written with other laws than {trained.folder.path} has here: copy "
            f"results/{LAWS}{header.steps}.json from where it was written"
        )
    return chain


def _decoded(grid: Grid, header: Header, words: Words, about: str) -> Tensor:
    """All images, each block as it was encoded.

    Raises:
        RunError: the network computes other numbers here.
    """
    batches = -(-header.count // header.batch)
    done, parts, sum_ = 0, list[Tensor](), 0
    with (
        Progress("decode", batches * header.steps, "call") as progress,
        _threads(header.threads),
        arithmetic("float32"),
    ):
        for part in _batches(grid, header, words, about, lambda: progress.advance(1)):
            parts.append(part)
            done, sum_ = done + len(part), check(part, sum_)
            if done % header.block == 0 or done == header.count:
                if sum_ != header.checks[(done - 1) // header.block]:
                    raise _other_floats(about)
                sum_ = 0
    return torch.cat(parts)


def _batches(
    grid: Grid, header: Header, words: Words, about: str, on_call: Callable[[], None]
) -> Iterator[Tensor]:
    try:
        yield from decode(grid, words, header.count, header.batch, on_call)
    except WrongBitsError as error:
        raise _other_floats(about) from error


def _other_floats(about: str) -> RunError:
    why = about or "the file is whole, so the network computes other numbers here"
    return RunError(
        f"the images do not come back as they were encoded ({why}); nothing was written: "
        "decompress where the file was written, or with those versions"
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as the encoder had: sums of floats depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(max(1, count), MOST_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(levels: Tensor, header: Header | ProgressiveFile, out: Path) -> None:
    """PNGs, or images.npz of the levels where a PNG cannot hold them."""
    shape, num_levels = header.shape, header.num_levels
    grey = len(shape) == 3 and shape[0] == 1
    with temporary_folder(out) as folder:
        made = folder / "images"
        made.mkdir()
        if len(shape) == 3 and shape[0] <= 4 and (num_levels <= 256 or grey):
            made = _write_pngs(levels, header, made)
        else:
            dtype = np.uint8 if num_levels <= 256 else np.uint16
            file = NpzFile(made / "images.npz", header.count, shape, dtype=dtype)
            file.put(0, levels.numpy())
            file.finish()
        os.replace(made, out)


def _write_pngs(levels: Tensor, header: Header | ProgressiveFile, numbered: Path) -> Path:
    """A PNG an image, by its name if it has one; returns the folder."""
    deep = header.num_levels > 256
    files = PngFolder(numbered, header.count, header.shape, 16 if deep else 8)
    for start, part in enumerate(levels.split(1)):
        shown = (
            spread(part, header.num_levels, 65535) if deep else to_uint8(part, header.num_levels)
        )
        files.put(start, shown.numpy())
    if not header.names:
        return numbered
    named = numbered.with_name("named")
    named.mkdir()
    for k, name in enumerate(header.names):
        os.replace(numbered / f"{k:08d}.png", named / f"{name}.png")
    return named
