"""--config.compress.stop=t: images sent from the noise down to t; every beginning decodes.

results/compression-progressive.json    bytes against distortion at each time, beside other codes'
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from torch import Tensor

from scoreflow.cli.console import recorded, say
from scoreflow.data.dataset import Data, digest
from scoreflow.data.levels import centres, quantize
from scoreflow.errors import RequestError
from scoreflow.likelihood.compression.chain import Chain
from scoreflow.likelihood.compression.fitting import LEAST_IMAGES, fit, num_calls, times_of
from scoreflow.likelihood.compression.progressive.file import DIGEST, ProgressiveFile
from scoreflow.likelihood.compression.progressive.index_code import refuse_without
from scoreflow.likelihood.compression.progressive.rates import other_codes, row_of
from scoreflow.likelihood.compression.progressive.states import Plan, Progressive, State, plan
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.paths import short_name
from scoreflow.runtime.progress_bar import Progress
from scoreflow.sde.base import SDE, ends_without_signal
from scoreflow.storage.atomic_files import Json, write_atomic
from scoreflow.trained_run import TrainedRun

NAME = "compression-progressive"
AT_ONCE = 64
"""Images of one evaluation."""


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        stop: the last time that is sent, in steps.
        part_bits: of a part at the most.
        seed: of the laws' measurement and of the candidates.
        fit_images: training images of that measurement.
    """

    stop: int
    part_bits: float
    seed: int
    fit_images: int


@dataclass(frozen=True)
class Encoded:
    """A file and what is to be said of it.

    Attributes:
        file: it.
        rows: bytes and distortion at each time (`rates.row_of`), from N down.
    """

    file: ProgressiveFile
    rows: list[Json]


def compress(
    trained: TrainedRun, name: str, of: Data, out: Path, typed: str, names: tuple[str, ...]
) -> None:
    """Write the file, and what it came to into the run's results.

    Args:
        trained: the run.
        name: of the images; "" for its test set.
        of: data whose test part they are.
        out: the file.
        typed: the run's folder as it was typed.
        names: of the images, without ending; none where they have none.
    """
    start = time.monotonic()
    encoded = encode(trained, asked_of(trained.config), of.test, typed, names)
    seconds = time.monotonic() - start
    content = encoded.file.packed()
    write_atomic(out, content)
    tell(encoded)
    last = encoded.rows[-1]
    say(
        f"{out}: {len(content)} bytes, {last['bits_per_dim']:.4f} bits/dim, RMSE "
        f"{last['rmse']:.2f} of 255 ({len(of.test)} images, {seconds / len(of.test):.2f} s each)"
    )
    c = trained.config.compress
    settings = recorded(c, trained.experiment.device) | trained.averaged_as
    result = result_of(encoded, trained, of.test, seconds)
    result |= {"settings": settings, **trained.measured_on}
    question = {**settings, "data": digest(of.test), "weights": trained.fingerprint}
    file = f"{NAME}-{short_name(name)}" if name else NAME
    written = trained.folder.keep_result(file, result, question, _rank)
    if written.remark:
        say(written.remark)


def asked_of(config: ConfigDict) -> Asked:
    """What the `compress` section asks for."""
    c = config.compress
    return Asked(c.stop, c.part_bits, c.seed, c.fit_images)


def _rank(result: Json) -> dict[str, float]:
    """What makes a measurement the headline: newest weights, most images, nearest to them."""
    return {
        "of newer weights": result["step"],
        "of more data": result["num_images"],
        "nearer to its images": -result["rows"][-1]["rmse"],
    }


def encode(
    trained: TrainedRun, asked: Asked, levels: Tensor, name: str, names: tuple[str, ...] = ()
) -> Encoded:
    """Images as a file.

    Args:
        trained: the run.
        asked: how.
        levels: (n, C, H, W), n >= 1.
        name: of the run, as it was typed.
        names: of the images; none where they have none.

    Raises:
        RequestError: its process, network or data allow no such file.
    """
    refuse_without()
    model, sde = _asked_of(trained)
    least, end = max(1, math.ceil(model.t_min)), sde.num_steps
    if not least <= asked.stop < end:
        raise RequestError(
            f"compress.stop is a time that is sent, from {least} to {end - 1} for this run, got "
            f"{asked.stop}"
        )
    num_levels, device = trained.like.num_levels, trained.experiment.device
    assert num_levels is not None, "the caller refuses vectors"
    event, levels = tuple(levels.shape[1:]), levels.cpu()
    found = _plan(trained, model, sde, asked, levels)
    chain = Chain(model, sde, found.law, found.times, event, num_levels)
    code = Progressive(chain, asked.seed, AT_ONCE, asked.part_bits, device)
    digest = bytes.fromhex(trained.fingerprint)[:DIGEST]
    of_all = (len(levels), event, num_levels, found.times, found.law, asked.seed, AT_ONCE)
    nothing = np.zeros(0, np.uint32)
    file = ProgressiveFile(
        name, digest, trained.step, *of_all, asked.part_bits, nothing, names=names
    )
    rows, told = list[Json](), _steps("progressive code", len(found.times) - 1)

    def on_state(state: State) -> None:
        """All states at once would be as many times the images."""
        rows.append(row_of(state, levels, num_levels, file.header_bytes))
        told()

    with arithmetic("float32"):
        words = code.encode(centres(levels, num_levels), on_state)
    return Encoded(replace(file, words=words), rows)


def decode(
    trained: TrainedRun, file: ProgressiveFile, name: str, stop: int = 0
) -> tuple[Tensor, int]:
    """The images of a file, as they are known at its last time or at one before.

    Args:
        trained: the run.
        file: with these images.
        name: of the file, for messages.
        stop: no time below it is read; 0 for all.

    Returns:
        Levels, (n, C, H, W), and the time.

    Raises:
        RequestError: the file is of other weights, or has no such time.
    """
    refuse_without()
    model, sde = _asked_of(trained)
    if bytes.fromhex(trained.fingerprint)[:DIGEST] != file.weights:
        raise RequestError(
            f"{name} was made with other weights than those of {trained.folder.path}, by the run "
            f"{file.run}: give its folder as --workdir"
        )
    shape, num_levels = tuple(trained.like.train.shape[1:]), trained.like.num_levels
    if (shape, num_levels, sde.num_steps) != (file.event, file.num_levels, file.times[-1]):
        raise RequestError(f"{name} is damaged: it holds images of another shape than its run's")
    if stop and not file.times[1] <= stop <= sde.num_steps:
        raise RequestError(
            f"compress.stop: {name} has the times from {file.times[1]} to {sde.num_steps}, got "
            f"{stop}"
        )
    chain = Chain(model, sde, file.law, file.times, file.event, file.num_levels)
    device = trained.experiment.device
    code = Progressive(chain, file.seed, file.batch_size, file.part_bits, device)
    last: list[State] = []
    read = sum(t >= max(stop, 1) for t in file.times)
    told = _steps("progressive code", read)

    def on_state(state: State) -> None:
        told()
        last[:] = [state]

    with arithmetic("float32"):
        code.decode(file.words, file.count, on_state, stop)
    return quantize(last[0].estimate, file.num_levels), last[0].t


def result_of(encoded: Encoded, trained: TrainedRun, levels: Tensor, seconds: float) -> Json:
    """What results/compression-progressive.json keeps."""
    last, file = encoded.rows[-1], encoded.file
    return {
        "value": last["bits_per_dim"],
        "standard_error": None,
        "unit": "bits/dim",
        "num_images": file.count,
        "header_bytes": file.header_bytes,
        "seconds": seconds,
        "rows": encoded.rows,
        "others": other_codes(levels, file.num_levels),
        "times": list(file.times),
        "law": file.law.kind,
        "step": trained.step,
        "weights": trained.fingerprint,
    }


def tell(encoded: Encoded) -> None:
    """The table of bytes and distortions in the terminal."""
    say("       t       bytes  bits/dim  KL alone   RMSE of 255   PSNR, dB")
    for row in encoded.rows:
        psnr = "   none" if row["psnr"] is None else f"{row['psnr']:7.2f}"
        say(
            f"  {row['t']:6d} {row['bytes']:11,d} {row['bits_per_dim']:9.4f} "
            f"{row['divergence']:9.4f} {row['rmse']:13.2f}    {psnr}"
        )


def _asked_of(trained: TrainedRun) -> tuple[ScoreModel, SDE]:
    """The network as it is asked, and the process as far as it tells x_0."""
    model = trained.model.in_precision("float32")
    return model, model.posed if ends_without_signal(model.sde) else model.sde


def _plan(trained: TrainedRun, model: ScoreModel, sde: SDE, asked: Asked, levels: Tensor) -> Plan:
    data = trained.data
    images = min(asked.fit_images, len(data.train))
    if images < LEAST_IMAGES:
        raise RequestError(
            f"the laws of --mode compress are measured on {LEAST_IMAGES} training images or more, "
            f"got {len(data.train)}: add --data PATH"
        )
    times = tuple(sorted({*times_of(sde, model.t_min), asked.stop}))
    times = times[times.index(asked.stop) :]
    calls = num_calls(images, len(times), AT_ONCE)
    with Progress("laws by time", calls, "call") as progress, arithmetic("float32"):
        halves = fit(
            model, sde, times, data, asked.seed, images, AT_ONCE, lambda: progress.advance(1)
        )
    dims = levels[0].numel()
    return plan(halves, times, sde, asked.stop, len(levels), dims, asked.part_bits)


def _steps(title: str, total: int) -> Callable[[], None]:
    """A bar that is closed when it is full."""
    progress = Progress(title, total, "time")
    left = iter(range(total - 1, -1, -1))

    def told() -> None:
        progress.advance(1)
        if next(left) == 0:
            progress.bar.close()

    return told
