"""Draw many samples into a folder, a batch at a time: resumable, and shared between processes.

    settings.json          what they are a function of, and its hash
    00000000.png, ... | samples.npz | samples.pt
    progress-png.jsonl     a line a batch that is done: evaluations and seconds

A batch always holds the same samples, whoever draws it and after whatever interruption: another
batch might change the last bit of a network's answer, and with it a level. So the folder is bit
for bit what one process makes that nothing interrupts. With another batch size all are drawn anew.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import dtype_of, from_uint8, gathered, spread, to_uint8, values_of
from scoreflow.errors import RequestError, RunError, warn
from scoreflow.generation.generate import draw_batch, outside
from scoreflow.generation.plan import SamplingPlan
from scoreflow.runtime import distributed
from scoreflow.runtime.progress_bar import Progress
from scoreflow.runtime.stopwatch import Stopwatch
from scoreflow.samplers import Counted
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json, dumps, write_atomic
from scoreflow.storage.image_files import ImageFiles, NpzFile, PngFolder, TensorFile
from scoreflow.storage.locks.ownership import held
from scoreflow.storage.regular_files import sweep
from scoreflow.storage.result_rows import Rows, rows_in
from scoreflow.storage.sample_names import differences, hash_of, read_settings
from scoreflow.storage.validation import Range, conform

SAVED = ("png", "npz", "pt")
"""What `sampling.save` may be for samples in a folder."""
WHITE_16 = 65535
"""The brightest grey of 16 bits."""


@dataclass(frozen=True)
class Draw:
    """What is drawn: sample k is a function of this and k alone.

    Attributes:
        name: of the sampler.
        plan: how it draws.
        sde: the process.
        data: what samples are like.
        seed: of the noise.
        num_images: samples 0..num_images-1.
        batch_size: samples at a time.
    """

    name: str
    plan: SamplingPlan
    sde: SDE
    data: Data
    seed: int
    num_images: int
    batch_size: int

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.data.train.shape[1:])

    def batches(self) -> Iterator[tuple[int, int, int]]:
        """(number, first sample, sample after the last) of each batch."""
        for number, start in enumerate(range(0, self.num_images, self.batch_size)):
            yield number, start, min(start + self.batch_size, self.num_images)


@dataclass(frozen=True)
class Stored:
    """Samples in a folder.

    Attributes:
        path: the folder of PNGs, or the file.
        evaluations: of the network, rows in all.
        seconds: that drawing took, over all times that it went on.
        drawn: how many were drawn now; the others were there.
        outside: how many leave the range of images; None for vectors, and where samples are older
            than the count.
    """

    path: Path
    evaluations: int
    seconds: float
    drawn: int
    outside: int | None = None


@dataclass(frozen=True)
class BatchRow:
    """The schema of a batch's row.

    Attributes:
        batch: its number.
        rows: evaluations of the network.
        seconds: that it took.
        outside: samples that leave the range of images; None for vectors.
    """

    batch: Annotated[int, Range(0)]
    rows: Annotated[int, Range(0)]
    seconds: Annotated[float, Range(0)]
    outside: Annotated[int, Range(0)] | None = None


def check_batch(row: Json) -> None:
    """Refuse what is no row of a batch.

    Raises:
        InvalidError: with the field that is wrong.
    """
    conform(row, BatchRow)


def fill(folder: Path, save: str, draw: Draw, settings: Json) -> Stored:
    """Draw what a folder lacks; every process must call this.

    One command at a time draws into a folder: another waits, and finds it full.

    Args:
        folder: made if it is not there.
        save: one of `SAVED`.
        draw: what is drawn.
        settings: JSON values, all that the samples are a function of.

    Raises:
        RequestError: the folder holds samples of other settings, or such samples cannot be
            saved so.
        RunError: a solver gave up, or the disk is full.
    """
    files, shard = files_of(folder, save, draw), distributed.shard()
    with ExitStack() as holding:
        if distributed.is_main_process():
            _refuse_other(folder, settings)
            _make(folder)
            holding.enter_context(held(folder / ".lock", f"draws into {folder.name}"))
            _begin(folder, settings)
        shard.wait()
        return _filled(folder, save, draw, settings, files)


def _filled(folder: Path, save: str, draw: Draw, settings: Json, files: ImageFiles) -> Stored:
    """`fill`, while nobody else does."""
    shard, name = distributed.shard(), f"progress-{save}"
    heading = {"hash": hash_of(settings), "batch_size": draw.batch_size}
    rows_of = partial(rows_in, folder, name, heading, key="batch", schema=check_batch)
    missing = shard.broadcast_from_rank_0(
        _missing(rows_of(0), files, draw) if shard.rank == 0 else []
    )
    todo, rows = [batch for batch in missing if shard.has(batch[0])], rows_of(shard.rank)
    _draw(todo, files, draw, rows)
    drawn = shard.total(sum(stop - start for _, start, stop in todo))
    if distributed.is_main_process():
        rows.adopt()
        files.finish()
    shard.wait()
    done = rows_of(0).done
    seconds = sum(float(row["seconds"]) for row in done.values()) / shard.world
    counts = [row.get("outside") for row in done.values()]
    left = None if None in counts else sum(int(each) for each in counts if each)
    evaluations = sum(int(row["rows"]) for row in done.values())
    return Stored(files.path, evaluations, seconds, drawn, left)


def _missing(rows: Rows, files: ImageFiles, draw: Draw) -> list[tuple[int, int, int]]:
    """The batches to be drawn: all of them, where one is for a file that is finished or gone."""
    if rows.remark:
        warn(rows.remark)
    batches = list(draw.batches())
    found = [each for each in batches if each[0] not in rows.done or not files.holds(*each[1:])]
    if lost := sum(number in rows.done for number, _, _ in found):
        of = "1 batch" if lost == 1 else f"{lost} batches"
        warn(f"{files.path}: {of} damaged or gone, drawn again")
    if not found or files.begun:
        return found
    rows.forget()  # else a kill would leave rows of images that a new file does not have
    return batches


def first_values(folder: Path, save: str, draw: Draw, count: int) -> Tensor:
    """The first samples of a full folder as the data are, (count, ...), on the data's device."""
    first = np.array(files_of(folder, save, draw).first(count), order="C")
    found = torch.from_numpy(first.astype(np.int32) if first.dtype == np.uint16 else first)
    if draw.data.num_levels is not None and save != "pt":
        found = _levels_of(found, save, draw.data.num_levels)
    return found.to(draw.data.train.device)


def files_of(folder: Path, save: str, draw: Draw) -> ImageFiles:
    """The files of a folder.

    Raises:
        RequestError: such samples cannot be saved so, or `save` is none of `SAVED`.
    """
    levels = draw.data.num_levels
    if save == "pt":
        dtype = torch.float64 if levels is None else dtype_of(levels)
        return TensorFile(folder / "samples.pt", draw.num_images, draw.event, dtype)
    deep = levels is not None and levels > 256
    if save == "npz":
        kind = np.uint16 if deep else np.uint8
        labels = draw.plan.labels(torch.arange(draw.num_images))
        of_each = None if labels is None else labels.numpy()
        return NpzFile(folder / "samples.npz", draw.num_images, draw.event, of_each, kind)
    if save == "png":
        return PngFolder(folder, draw.num_images, draw.event, 16 if deep else 8)
    raise RequestError(f"samples are saved as {', '.join(SAVED)}, got {save!r}")


def _begin(folder: Path, settings: Json) -> None:
    """Write down what the folder is of, or see that it is of that."""
    path = folder / "settings.json"
    if _refuse_other(folder, settings) is None:
        kept = {"hash": hash_of(settings), **settings}
        write_atomic(path, dumps(kept, "settings.json", RunError))


def _refuse_other(folder: Path, settings: Json) -> Json | None:
    """What the folder is of; a RequestError if that is something else."""
    there = read_settings(folder / "settings.json")
    if there is not None and there.get("hash") != hash_of(settings):
        differing = differences(settings, there) or "their settings differ"
        raise RequestError(
            f"{folder} holds samples of other settings ({differing}): choose another folder"
        )
    return there


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"cannot make the folder {folder} ({error.strerror}): choose another"
        ) from error
    sweep(folder)  # what a kill left


def _draw(batches: list[tuple[int, int, int]], files: ImageFiles, draw: Draw, rows: Rows) -> None:
    """Draw some batches and write each as it is done: images first, then its row."""
    device = draw.data.train.device
    with Progress(f"draw {draw.name}", sum(b - a for _, a, b in batches), "img") as progress:
        for number, start, stop in batches:
            counted = Counted(draw.plan.denoiser)
            shown, watch = Counted(counted, progress.evaluated), Stopwatch(device)
            plan, noise = (
                replace(draw.plan, denoiser=shown),
                Noise.of(draw.seed, start, stop, device),
            )
            x = draw_batch(plan, draw.sde, noise, draw.event)
            _put(files, start, _stored(x, files, draw.data))
            row = {"batch": number, "rows": counted.rows, "seconds": watch.seconds}
            rows.append([{**row, "outside": outside(x, draw.data.num_levels)}])
            progress.advance(stop - start)


def _stored(x: Tensor, files: ImageFiles, data: Data) -> Tensor:
    """Samples as their file has them: levels, pixels of the file's depth, or vectors.

    More than 256 levels are levels in an npz, which is an array, and brightness in a PNG.
    """
    values, levels = values_of(x, data), data.num_levels
    if levels is None or isinstance(files, TensorFile):
        return values
    if levels <= 256:
        return to_uint8(values, levels)
    return values if isinstance(files, NpzFile) else spread(values, levels, WHITE_16)


def _levels_of(stored: Tensor, save: str, num_levels: int) -> Tensor:
    """`_stored` undone, of what is no tensor file."""
    if num_levels <= 256:
        return from_uint8(stored, num_levels)
    return stored if save == "npz" else gathered(stored, num_levels, WHITE_16)


def _put(files: ImageFiles, start: int, values: Tensor) -> None:
    try:
        files.put(start, values.cpu().numpy())
    except OSError as error:
        raise RunError(
            f"cannot write {files.path} ({error.strerror}): what is done is kept, and the same "
            "command goes on after it"
        ) from error
