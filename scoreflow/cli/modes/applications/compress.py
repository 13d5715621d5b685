"""--mode compress: images as a file of as many bits as the chain's bound says.

compression.json              of the test set: bytes of the file and of its parts, and the bound
compression-data-NAME.json    of other images

Under other settings each has a name of its own, with a hash (`storage.measurements`).
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scoreflow.cli.console import recorded, say
from scoreflow.cli.modes.applications import progressive
from scoreflow.cli.modes.applications.chains import (
    Laws,
    chain_of,
    digest_of,
    machine_of,
    refuse_uncodable,
)
from scoreflow.cli.modes.applications.other_images import other_images
from scoreflow.cli.modes.applications.targets import refuse_taken
from scoreflow.data.dataset import Data, digest
from scoreflow.errors import RequestError, RunError
from scoreflow.factory.editing import build_user_reading
from scoreflow.likelihood.compression import baselines
from scoreflow.likelihood.compression.ans_stack import WORD, WrongBitsError, refuse_without_coder
from scoreflow.likelihood.compression.archive import (
    MOST_NUMBERS,
    Header,
    block_of,
    is_plain,
    of_bytes,
    size_of,
    to_bytes,
    too_large,
)
from scoreflow.likelihood.compression.bits_back import Grid
from scoreflow.likelihood.compression.chain import Chain, Choice, bound
from scoreflow.likelihood.compression.coding import (
    Encoded,
    checks_of,
    decode,
    encode,
)
from scoreflow.likelihood.compression.halfway import Keeper
from scoreflow.models.score_model import arithmetic
from scoreflow.paths import short_name
from scoreflow.report.page import write_report
from scoreflow.report.sections.applications import codes
from scoreflow.runtime.progress_bar import Progress
from scoreflow.schema.config import Config
from scoreflow.schema.evaluation_sections import LikelihoodConfig
from scoreflow.schema.request import Request
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json, write_atomic
from scoreflow.trained_run import TrainedRun, open_run
from scoreflow.uncertainty import standard_error

BOUND_AT_ONCE = 64
"""Images of one evaluation of the bound, whose floats no decoder needs."""


def run(request: Request, _argv: list[str]) -> None:
    """Write the file, having decoded it once, and what it came to."""
    assert request.target is not None, "the command line refuses it without --out"
    assert request.workdir is not None, "checked by the caller"
    refuse_without_coder()
    out = request.target.path
    refuse_taken(out)
    trained = open_run(request, say)
    compress(trained, out, str(request.workdir))
    write_report(trained.folder)


def compress(trained: TrainedRun, out: Path, typed: str) -> None:
    """Write the file, and what it came to into the run's results.

    Args:
        trained: the run.
        out: of the file.
        typed: the run's folder, as the file names it.
    """
    refuse_uncodable(trained)
    name, of = _images(trained)
    if trained.config.compress.stop:
        progressive.compress(trained, name, of, out, typed, _names(of))
        return
    _refuse_too_large(trained.config.compress.batch_size, of.test)
    chain, choice = chain_of(trained, _laws(trained))
    with arithmetic("float32"):
        result = _compressed(trained, of, chain, choice, out, typed)
    result["baselines"] = _baselines(trained, name, of)
    say(baselines.lines(codes.rows_of(result)))
    _keep(trained, name, of, result)


def _refuse_too_large(batch: int, levels: Tensor) -> None:
    """Refuse what no decoder would read."""
    shape = tuple(levels.shape[1:])
    if too_large(batch, len(levels), shape):
        most = max(1, MOST_NUMBERS // math.prod(shape))
        raise RequestError(
            f"compress.batch_size must be at most {most} for images {shape}, of which a file has "
            f"{MOST_NUMBERS} numbers in flight at the most, got {batch}"
        )


def _baselines(trained: TrainedRun, name: str, of: Data) -> list[Json]:
    """The same images by other codes."""
    assert of.num_levels is not None, "refused above"
    train = None if name == "train" else trained.data.train
    with Progress("other codes", baselines.count_of(train), "code") as progress:
        return baselines.table(of.test, of.num_levels, train, lambda: progress.advance(1))


def _laws(trained: TrainedRun) -> Laws:
    c = trained.config.compress
    return Laws(c.steps, c.seed, c.fit_images)


def _images(trained: TrainedRun) -> tuple[str, Data]:
    """What is compressed: its name, "" for the test set, and data whose test part it is."""
    c = Config.of(trained.config)
    name, of = "", trained.data
    if c.compress.data != "test":
        reading = build_user_reading(LikelihoodConfig(), c.data)  # as the run's own
        reading = replace(reading, section="data")
        name, of = other_images(trained.data, c.compress.data, "compress.data", reading)
    count = c.compress.num_images or len(of.test)
    if not len(of.test):
        raise RequestError(f"compress.data = {c.compress.data} has no image")
    return name, replace(of, test=of.test[:count], test_names=of.test_names[:count])


@dataclass(frozen=True)
class _Clock:
    """Seconds an image of what was done, by its name."""

    images: int
    seconds: dict[str, float]

    def time(self, name: str, since: float) -> None:
        """What began then is done."""
        self.seconds[name] = (time.monotonic() - since) / self.images


def _compressed(
    trained: TrainedRun, of: Data, chain: Chain, choice: Choice, out: Path, typed: str
) -> Json:
    """Encode, decode and compare, write; the result but for what all results have."""
    c, levels = trained.config.compress, of.test
    grid, clock = Grid.of(chain, c.precision, levels.device), _Clock(len(levels), {})
    batches = -(-len(levels) // c.batch_size)
    said = _bound(chain, levels, c.seed)
    keeper = Keeper(trained.folder.path / "results", _question(trained, of, choice))
    begun = keeper.begun()
    there = 0 if begun is None else len(begun.net_bits)
    start = time.monotonic()
    with Progress("encode", batches * c.steps, "call", there * c.steps) as progress:
        advance = partial(progress.advance, 1)
        encoded = encode(grid, levels, c.batch_size, c.seed, advance, begun, keeper)
    if not there:  # else it is the time of a part
        clock.time("encode", start)
    header = _header(trained, of, choice, encoded, typed)
    if c.verify:
        start = time.monotonic()
        with Progress("verify", batches * c.steps, "call") as progress:
            _verify(grid, encoded, levels, c.batch_size, lambda: progress.advance(1))
        clock.time("decode", start)
    data = to_bytes(header, encoded.words)
    _refuse_unreadable(data, header)
    write_atomic(out, data)
    keeper.done()
    result = _as_result(header, encoded, said, len(data), choice)
    result |= {"seconds_per_image": clock.seconds, "verified": bool(c.verify)}
    _tell(result, out)
    return result | {"file": out.name, "sha256": hashlib.sha256(data).hexdigest()}


def _question(trained: TrainedRun, of: Data, choice: Choice) -> Json:
    """All that the words of a stack depend on."""
    c = trained.config.compress
    return {
        "weights": trained.fingerprint,
        "laws": digest_of(choice),
        "images": digest(of.test),
        "steps": c.steps,
        "precision": c.precision,
        "batch_size": c.batch_size,
        "seed": c.seed,
        "threads": torch.get_num_threads(),
        "machine": machine_of(trained.experiment.device),
    }


def _bound(chain: Chain, levels: Tensor, seed: int) -> Tensor:
    """Bits of each image, (n,), from noise that is not the coder's."""
    index = torch.arange(len(levels), device=levels.device).split(BOUND_AT_ONCE)
    with Progress("bound", len(index) * chain.num_steps, "call") as progress:
        found = [
            bound(chain, levels[i], Noise(seed, i), lambda: progress.advance(1)) for i in index
        ]
    return torch.cat(found).sum(1).cpu() / math.log(2)


def _verify(
    grid: Grid, encoded: Encoded, levels: Tensor, batch: int, on_call: Callable[[], None]
) -> None:
    parts = decode(grid, encoded.words, len(levels), batch, on_call)
    try:
        same = all(
            torch.equal(part, own.cpu())
            for part, own in zip(parts, levels.split(batch), strict=True)
        )
    except WrongBitsError:
        same = False
    if not same:
        raise RunError(
            "the file does not decode to its images: the network has other answers to the same "
            "numbers on this device; nothing was written; try --device=cpu"
        )


def _refuse_unreadable(data: bytes, header: Header) -> None:
    """A file that its own reader has something against is none."""
    try:
        read, _ = of_bytes(data, "it")
    except RequestError as error:
        raise RunError(
            f"the file cannot be read back ({error}); take fewer images (compress.num_images)"
        ) from error
    if read != header:
        raise RunError("the file's header does not come back as it is: report this")


def _header(trained: TrainedRun, of: Data, choice: Choice, encoded: Encoded, typed: str) -> Header:
    c, block = trained.config.compress, block_of(trained.config.compress.batch_size)
    return Header(
        weights=bytes.fromhex(trained.fingerprint)[:16],
        laws=bytes.fromhex(digest_of(choice))[:8],
        seed=c.seed,
        fitted=c.fit_images,
        step=trained.step,
        num_levels=trained.like.num_levels or 0,
        count=len(of.test),
        borrowed=encoded.borrowed,
        words=len(encoded.words),
        batch=c.batch_size,
        steps=c.steps,
        bits=c.precision,
        threads=torch.get_num_threads(),
        block=block,
        shape=tuple(of.test.shape[1:]),
        run=typed,
        machine=machine_of(trained.experiment.device),
        names=_names(of),
        checks=checks_of(of.test, block),
    )


def _names(of: Data) -> tuple[str, ...]:
    """Names of image files, without ending; none where they are no names, or not all different."""
    files = [Path(name) for name in of.test_names]
    stems = tuple(file.stem for file in files)
    plain = len({*stems}) == len(of.test) and all(map(is_plain, stems))
    return stems if plain and all(file.suffix for file in files) else ()


# ---- what it came to ----------------------------------------------------------------------------


def _as_result(header: Header, encoded: Encoded, said: Tensor, size: int, choice: Choice) -> Json:
    dims = math.prod(header.shape)
    net = torch.tensor(encoded.net_bits, dtype=torch.float64)
    by_batch = torch.stack([part.sum() for part in said.split(header.batch)])
    counts = torch.tensor([len(part) for part in said.split(header.batch)])
    apart, apart_error = _by_image(net - by_batch, counts)
    _, net_error = _by_image(net, counts)
    other, names = size_of(header)
    return {
        "value": 8 * size / header.count / dims,
        "standard_error": net_error and net_error / dims,
        "unit": "bits/dim",
        "num_images": header.count,
        "dims": dims,
        "num_levels": header.num_levels,
        "bytes": {
            "file": size,
            "images": float(net.sum()) / 8,
            "borrowed": encoded.borrowed * WORD // 8,
            "header": other,
            "names": names,
        },
        "predicted_bytes": float(said.sum()) / 8,
        "predicted": float(said.mean()) / dims,
        "predicted_standard_error": standard_error(said / dims),
        "net": float(net.sum()) / header.count / dims,
        "net_minus_predicted": apart / dims,
        "net_minus_predicted_error": apart_error and apart_error / dims,
        "steps": header.steps,
        "times": list(choice.times),
        "variance": choice.law.kind,
        "machine": header.machine,
        "threads": header.threads,
    }


def _by_image(sums: Tensor, counts: Tensor) -> tuple[float, float | None]:
    """Mean by image of sums over batches, and its error; the last may have fewer.

    Args:
        sums: (n,).
        counts: images of each batch, (n,).
    """
    images = float(counts.sum())
    mean = float(sums.sum()) / images
    return mean, standard_error((sums - mean * counts) * (len(counts) / images))


def _tell(result: Json, out: Path) -> None:
    held, said = result["bytes"], result["predicted_bytes"]
    seconds = result["seconds_per_image"]
    per = held["file"] / result["num_images"]
    say(
        f"{out}: {held['file']} bytes, {result['value']:.4f} bits/dim, {per:.1f} bytes an image "
        f"({result['num_images']} images)"
    )
    say(
        f"  images {held['images']:.0f} bytes, predicted {said:.0f} "
        f"({100 * (held['images'] / said - 1):+.2f} %); borrowed bits {held['borrowed']}, header "
        f"{held['header']}, names {held['names']}"
    )
    took = [f"{value:.3f} s an image to {name}" for name, value in seconds.items()]
    if took:
        say(f"  {', '.join(took)}")


def _keep(trained: TrainedRun, name: str, of: Data, result: Json) -> None:
    c = trained.config.compress
    settings = recorded(c, trained.experiment.device) | trained.averaged_as
    kept = {**result, "step": trained.step, "settings": settings, **trained.measured_on}
    kept["weights"] = trained.fingerprint
    asked = {**settings, "data": digest(of.test), "weights": trained.fingerprint}
    file = f"compression-data-{short_name(name)}" if name else "compression"
    written = trained.folder.keep_result(file, kept, asked, _rank)
    if written.remark:
        say(written.remark)


def _rank(result: Json) -> dict[str, float]:
    """What makes a measurement the headline: newest weights, most images, fewest bits."""
    return {
        "of newer weights": result["step"],
        "of more data": result["num_images"],
        "of fewer bits": -result["value"],
    }
