"""A run's folder: the only place where a run meets the disk.

    config.json  data.json  env.json  metrics.jsonl  checkpoints/  samples/  results/  lock

Files appear whole: written under a temporary name, fsynced, renamed, and the folder fsynced. The
one file that grows, metrics.jsonl, gets a line at a time; a line without its newline was cut off
by a kill and does not count. A checkpoint is believed only if it fits its SHA-256 sidecar, and
that is written first, so there is never a checkpoint without one.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import torch
from torch import Tensor

from scoreflow.errors import RequestError, RunError, warn
from scoreflow.paths import user_path
from scoreflow.storage.atomic_files import (
    Json,
    append,
    check_readable,
    check_writable,
    dumps,
    fsync_file,
    fsync_folder,
    load_json,
    make_folder,
    reason_of,
    write_atomic,
)
from scoreflow.storage.checkpoints.content import (
    Accept,
    OtherNetworkError,
    check_nothing,
    glance,
)
from scoreflow.storage.checkpoints.states import (
    DamagedError,
    read_state,
    sidecar,
    write_state,
)
from scoreflow.storage.locks.file_lock import Lock
from scoreflow.storage.locks.run_lock import release_lock, take_lock
from scoreflow.storage.measurements import NEWEST, Kept, Merge, Rank, keep
from scoreflow.storage.regular_files import open_regular, sweep
from scoreflow.storage.result_rows import Agree, Rows, Schema, anything, itself, owned_rows
from scoreflow.storage.schemas import files
from scoreflow.storage.validation import InvalidError

Scalar = int | float | np.generic | Tensor
Say = Callable[[str], None]
"""Shows a line to the user."""
IMPORT = "results/import.json"
"""What a run has whose weights came from another codebase."""
HISTORY = "history"
"""Beside the sections of config.json: what was changed on resuming, a {step, date, changes} each;
`config` is without it, for it is no key."""
FOLDERS = ("checkpoints", "averages", "results", "samples", "previews", "tensorboard", "cache")
"""What is written into below a run's folder."""
RESULTS = ("results", "samples")
"""Where the results of all modes go."""
FILES = (".png", ".gif", ".json", ".npz", ".pt")
"""Endings of what lies in samples/ besides folders."""
SHOWN = (".json", ".jsonl", ".svg", ".png")
"""Endings of what a report is made of."""
REMEDY = "copy the run to a folder of your own, and name that by --workdir"
READ = f"make it readable, by chmod u+rX, or {REMEDY}"
DATA = "data.json"
"""What the training data are, and where they were."""


class RunDir:
    """One run's folder; made by `create` or `open`, closed by `close` or as a context manager.

    Opened for training it holds an exclusive lock on the folder, which the system lets go of when
    the process ends, however it ends. Results and pictures can be written without the lock.
    """

    def __init__(self, path: Path, config: Json, lock: Lock | None) -> None:
        self.path = path
        self.config = {key: value for key, value in config.items() if key != HISTORY}
        self.history: list[Json] = list(config.get(HISTORY, []))
        self._lock = lock
        self._metrics: IO[bytes] | None = None
        if lock is not None:
            self._begin_training()
        rows = self.read_metrics()
        self._logged = {_row_key(row) for row in rows}
        self._last_logged_step = max((row["step"] for row in rows), default=None)

    def _begin_training(self) -> None:
        """Clear away what a kill left, and open what is written at every step."""
        try:
            refuse_links(self.path)
            self._checkpoints.mkdir(exist_ok=True)
            clear(self.path)
            _drop_lonely_hashes(self._checkpoints)
            _drop_lonely_hashes(self.path / "averages")
            self._metrics = _open_metrics(self.path / "metrics.jsonl")
            fsync_folder(self.path)
        except OSError as error:
            at = error.filename or self.path
            raise RunError(
                f"cannot write {at} ({reason_of(error)}): {self.path} stays as it is, and the "
                "same command goes on when this is mended"
            ) from error

    @classmethod
    def create(cls, path: str | Path, config: Json, env: Json) -> "RunDir":
        """Begin a run in a folder that holds none, and open it for training."""
        path = user_path(path, "the run's folder")
        text = dumps(config, "config", RequestError, sort_keys=True)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"cannot make a run in {path} ({error.strerror}): choose another --workdir"
            ) from error
        lock = take_lock(path)
        for name in ("config.json", "metrics.jsonl", "checkpoints"):
            if (path / name).exists():
                release_lock(lock)
                lost = "" if name == "config.json" else ", but no config.json, which it needs"
                raise RequestError(
                    f"{path} holds a run already (it has {name}{lost}): "
                    f"{'put that back' if lost else 'resume it'}, or choose another"
                )
        with _released_on_failure(lock):
            write_atomic(path / "env.json", dumps(env, "env", RequestError, sort_keys=True))
            write_atomic(path / "config.json", text)
            return cls(path, json.loads(text), lock)

    @classmethod
    def open(cls, path: str | Path, training: bool = False) -> "RunDir":
        """A run that exists: to read and add results, or, with the lock, to train on."""
        path = user_path(path, "the run's folder")
        config = load_json(
            path / "config.json",
            missing=_without_config(path),
            remedy="restore it, or train anew in another folder",
            kind=files.ConfigFile,
        )
        if not training:
            return cls(path, config, None)
        lock = take_lock(path)
        with _released_on_failure(lock):
            return cls(path, config, lock)

    def close(self) -> None:
        """Close the metrics and let go of the lock."""
        if self._metrics is not None:
            with suppress(OSError):  # every row was written when `log` returned
                self._metrics.close()
        if self._lock is not None:
            release_lock(self._lock)
        self._metrics = self._lock = None

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def check_writable(self, training: bool = False) -> None:
        """Refuse what cannot be written or read before the work whose results belong there.

        What a killed process left is cleared away.

        Args:
            training: whether checkpoints are written, and not only read.

        Raises:
            RequestError: a folder that belongs to the run is a link, a folder cannot be written,
                or a file of the run cannot be read.
        """
        refuse_links(self.path)
        check_readable(self._checkpoints, READ)
        written = FOLDERS if training else RESULTS
        for path in (self.path, *(self.path / name for name in written)):
            if path.is_dir():
                shown = path == self.path or path.name in RESULTS
                check_readable(path, READ, SHOWN if shown else ())
                check_writable(path, REMEDY)
        if training:
            self._check_metrics()
        clear(self.path)

    def _check_metrics(self) -> None:
        path = self.path / "metrics.jsonl"
        try:
            os.close(open_regular(path, os.O_RDWR))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RequestError(f"cannot write {path} ({reason_of(error)}): {REMEDY}") from error

    def write_env(self, env: Json) -> None:
        """Say where this run runs now: commit, versions, device, command."""
        write_atomic(self.path / "env.json", dumps(env, "env", RunError, sort_keys=True))

    def write_config(self, config: Json, history: list[Json] | None = None) -> None:
        """Give the run another config: an imported one's, when training begins, or a changed one.

        Args:
            config: its sections.
            history: what was changed, and from which step on; None for what it was.
        """
        history = self.history if history is None else history
        kept = {**config, **({HISTORY: history} if history else {})}
        text = dumps(kept, "config", RequestError, sort_keys=True)
        write_atomic(self.path / "config.json", text)
        self.config = json.loads(dumps(config, "config", RequestError))
        self.history = json.loads(text).get(HISTORY, [])

    @property
    def data(self) -> Json:
        """What data.json says of the training data; {} in a run that is older than it."""
        path = self.path / DATA
        if not path.exists():
            return {}
        return load_json(path, "", "restore it, or remove it", files.DataFile)

    def write_data(self, about: Json) -> None:
        """Keep what the training data are."""
        write_atomic(self.path / DATA, dumps(about, DATA, RunError))

    # ---- metrics ----------------------------------------------------------------------------

    @property
    def last_logged_step(self) -> int | None:
        """The highest step in metrics.jsonl, or None."""
        return self._last_logged_step

    def log(self, step: int, seconds: int | float, **scalars: Scalar) -> None:
        """Append a row to metrics.jsonl, unless a row of this step with these names is there.

        A resumed run repeats the steps since its checkpoint bit for bit, so what it would write
        again is there already. Rows of one step with other names (training, evaluation) are kept.
        """
        assert self._metrics is not None, "log needs a RunDir opened for training"
        row = {"step": step, "seconds": seconds, **scalars}
        if _row_key(row) in self._logged:
            return
        data = dumps(row, f"metrics of step {step}", RunError, indent=None)
        try:
            append(self._metrics, data)
        except OSError as error:
            raise self._unwritten("metrics.jsonl", error) from error
        self._logged.add(_row_key(row))
        self._last_logged_step = max(step, self._last_logged_step or step)

    def read_metrics(self) -> list[Json]:
        """The rows of metrics.jsonl in the order of writing, without a last line cut off."""
        path = self.path / "metrics.jsonl"
        try:
            with open(open_regular(path, os.O_RDONLY), "rb") as file:
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            lines = []
        except OSError as error:
            remedy = "" if error.errno == errno.ELOOP else f": {READ}"
            raise RequestError(f"cannot read {path} ({reason_of(error)}){remedy}") from error
        rows: list[Json] = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(files.metrics_row(line))
            except InvalidError as error:
                raise RequestError(
                    f"{path} line {number} is damaged ({error}): got {line[:60]!r}; remove that "
                    "line"
                ) from error
        return rows

    def forget_metrics_after(self, step: int) -> None:
        """Drop the rows of later steps: of a training that goes on otherwise from here."""
        assert self._metrics is not None, "forgetting needs a RunDir opened for training"
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        lines = [dumps(row, "metrics", RunError, indent=None) for row in kept]
        self._metrics.close()
        write_atomic(self.path / "metrics.jsonl", b"".join(lines))
        try:
            self._metrics = _open_metrics(self.path / "metrics.jsonl")
        except OSError as error:
            raise self._unwritten("metrics.jsonl", error) from error
        self._logged = {_row_key(row) for row in kept}
        self._last_logged_step = max((row["step"] for row in kept), default=None)

    @property
    def bound(self) -> bool:
        """Whether the weights are of this run's data: all but imported ones, until trained on.

        A training that was stopped before its first log interval has left a checkpoint alone.
        """
        if not (self.path / IMPORT).exists() or self.read_metrics():
            return True
        imported = self.read_result("import", "import the network anew").get("step")
        return imported is not None and max(self.checkpoint_steps(), default=0) > imported

    # ---- checkpoints ------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_steps(self) -> list[int]:
        """The steps of the checkpoints on disk, rising, whether whole or not."""
        names = (re.fullmatch(r"(\d{8,})\.pt", path.name) for path in self._checkpoints.glob("*"))
        return sorted(int(name[1]) for name in names if name)

    def save_checkpoint(self, step: int, state: Json, keep: int = 2) -> Path:
        """Write checkpoints/{step:08d}.pt and its hash; of the ones before it leave keep - 1.

        The rows logged so far reach the disk first: a run resumed here will not write them again.
        A keep of 0 leaves all.
        """
        assert self._metrics is not None, "save_checkpoint needs a RunDir opened for training"
        try:
            fsync_file(self._metrics.fileno())
        except OSError as error:
            raise self._unwritten("metrics.jsonl", error) from error
        path = self._checkpoints / f"{step:08d}.pt"
        write_state(path, state)
        self.drop_before(step, keep)
        return path

    def drop_before(self, step: int, keep: int) -> None:
        """Of the checkpoints before one leave keep - 1; a keep of 0 leaves all."""
        assert keep >= 0, f"keep must be at least 0, got {keep}"
        # Later steps than this one were found damaged (or this run would have begun there).
        earlier = [each for each in self.checkpoint_steps() if each <= step]
        for old in earlier[:-keep] if keep else ():
            old_path = self._checkpoints / f"{old:08d}.pt"
            try:
                old_path.unlink(missing_ok=True)
                sidecar(old_path).unlink(missing_ok=True)
            except OSError as error:
                raise self._unwritten(f"checkpoints/{old_path.name}", error) from error

    def _unwritten(self, name: str, error: OSError) -> RunError:
        return RunError(
            f"cannot write {self.path / name} ({reason_of(error)}): the last checkpoint stays, "
            "and the same command goes on from it when this is mended"
        )

    def load_checkpoint(
        self,
        map_location: str | torch.device = "cpu",
        step: int | None = None,
        warn: Say = warn,
        accept: Accept = check_nothing,
    ) -> tuple[int, Json]:
        """The newest whole checkpoint, or the one of `step`.

        Args:
            map_location: device for the tensors.
            step: exactly this one; None for the newest that is whole.
            warn: called with a line for every damaged one that is passed over.
            accept: called with its step and state, and refuses by a DamagedError what cannot be
                used.

        Returns:
            Its step and the state that was saved.
        """
        steps = self.checkpoint_steps()
        if step is not None and step not in steps:
            present = ", ".join(map(str, steps)) or "none"
            raise RequestError(
                f"{self.path} has no checkpoint of step {step}, it has {present}; "
                "training.keep says how many of the last ones a training leaves (0: all)"
            )
        damaged: list[DamagedError] = []
        for candidate in reversed(steps) if step is None else [step]:
            try:
                state = self._accepted(candidate, map_location, accept)
            except DamagedError as error:
                damaged.append(error)
            else:
                for each in damaged:
                    warn(f"passed over a damaged checkpoint: {each}")
                return candidate, state
        for each in damaged:
            if isinstance(each, OtherNetworkError):
                raise wrong_network(self, each) from each
        reason = "; ".join(map(str, damaged)) or "there is none"
        raise RequestError(
            f"{self.path} has no whole checkpoint ({reason}): train again, in a new folder"
        )

    def _accepted(
        self, step: int, map_location: str | torch.device, accept: Accept = check_nothing
    ) -> Json:
        """A checkpoint's state; a DamagedError where it is not whole, or not accepted."""
        path = self._checkpoints / f"{step:08d}.pt"
        state = read_state(path, map_location)
        try:
            accept(step, state)
        except DamagedError as error:
            raise type(error)(f"{path} fits its hash, but {error}") from error
        return state

    def whole_step(self, accept: Accept = check_nothing) -> int | None:
        """The step of the newest checkpoint that is whole; None where there is none.

        Args:
            accept: as in `load_checkpoint`.
        """
        for step in reversed(self.checkpoint_steps()):
            with suppress(DamagedError):
                self._accepted(step, "cpu", accept)
                return step
        return None

    def glance(self, step: int | None = None) -> tuple[int, Json]:
        """The newest checkpoint, or the one of `step`, without the values of its tensors.

        What was trained with is known before anything is built; it alone is hashed.

        Returns:
            Its step and state; 0 and {} where none can be read.
        """
        for candidate in reversed(self.checkpoint_steps()) if step is None else [step]:
            if state := glance(self._checkpoints / f"{candidate:08d}.pt"):
                return candidate, state
        return 0, {}

    # ---- results ----------------------------------------------------------------------------

    def write_result(self, name: str, result: Json) -> Path:
        """Write results/{name}.json; tensors become lists, a number must be finite."""
        path = self.path / "results" / f"{name}.json"
        data = dumps(result, f"results/{name}.json", RunError)
        make_folder(path.parent)
        write_atomic(path, data)
        return path

    def keep_result(
        self,
        name: str,
        result: Json,
        question: Json,
        rank: Rank = NEWEST,
        merge: Merge | None = None,
    ) -> Kept:
        """Write a measurement without losing another one; see `storage.measurements`."""
        last = max(self.checkpoint_steps(), default=None)
        return keep(self.path / "results", name, result, question, rank, last, merge)

    def read_result(self, name: str, remedy: str = "make it again, or remove the file") -> Json:
        """What results/{name}.json holds.

        Args:
            name: of the result.
            remedy: what to do where it is missing or damaged, for the message.
        """
        path = self.path / "results" / f"{name}.json"
        missing = f"{self.path} has no result {name!r}: {remedy}"
        return load_json(path, missing, remedy, files.READ.get(name, Json))

    def rows(
        self,
        name: str,
        heading: Json,
        rank: int = 0,
        key: str = "image",
        schema: Schema = anything,
        agree: Agree = itself,
    ) -> AbstractContextManager[Rows]:
        """results/{name}.jsonl, held by this command; see `storage.result_rows.owned_rows`."""
        return owned_rows(self.path / "results", name, heading, rank, key, schema, agree)

    def sample_path(self, step: int, sampler: str) -> Path:
        """Where the picture of a sampler's samples at a step belongs."""
        return self.path / "samples" / f"{step:08d}-{sampler}.png"

    def preview_path(self, step: int) -> Path:
        """Where the picture of a preview at a step belongs."""
        return self.path / "previews" / f"{step:08d}.png"

    def write_image(self, path: Path, png_bytes: bytes) -> None:
        """Write a picture whole, making its folder."""
        make_folder(path.parent)
        write_atomic(path, png_bytes)


def wrong_network(folder: RunDir, error: Exception) -> RequestError:
    """What is wrong where a checkpoint does not fit the network of the run's config and data."""
    return RequestError(
        f"the checkpoints of {folder.path} are not of the network in its config.json "
        f"({str(error).splitlines()[0]}): either its config was changed, or its data have other "
        "channels or classes than when it was trained; put back the one or the other"
    )


def _without_config(path: Path) -> str:
    """That a folder is no run, or one that has lost the file which says of what."""
    if any((path / name).exists() for name in ("metrics.jsonl", "checkpoints")):
        return f"{path} holds a run without its config.json: put that file back, from a copy"
    return f"{path} holds no run (it has no config.json): make one with --mode train"


@contextmanager
def _released_on_failure(lock: Lock) -> Iterator[None]:
    """Let go of a lock whose folder cannot be opened."""
    try:
        yield
    except BaseException:
        release_lock(lock)
        raise


def refuse_links(run: Path) -> None:
    """Refuse a run in which a folder that is written into is a link to another place.

    The run's own folder, which the user has named, may be one.

    Raises:
        RequestError: with the name of the link.
    """
    samples = run / "samples"
    inside = _names(samples) if samples.is_dir() else []
    for path in (*(run / name for name in FOLDERS), *inside):
        if path.is_symlink() and path.suffix not in FILES:
            raise RequestError(
                f"{path} is a link, and nothing is written through links in a run's folder, which "
                "may lead into other folders: put a folder of its own in its place; the run's "
                "folder itself may be a link"
            )


def clear(run: Path) -> None:
    """Remove the temporary files of processes that are gone, from all folders of a run."""
    samples = run / "samples"
    inside = _names(samples) if samples.is_dir() and not samples.is_symlink() else []
    for path in (run, *(run / name for name in FOLDERS), *inside):
        if path.is_dir() and (path == run or not path.is_symlink()):
            sweep(path)


def _names(folder: Path) -> list[Path]:
    """What is in a folder, but for files that are known by their ending; none if unreadable."""
    try:
        return [path for path in folder.iterdir() if path.suffix not in FILES]
    except OSError:
        return []


def _drop_lonely_hashes(folder: Path) -> None:
    """Remove hashes whose checkpoint never came, as a killed save leaves them."""
    for path in folder.glob("*.pt.sha256"):
        if not path.with_suffix("").exists() and not path.is_symlink():
            path.unlink()


def _open_metrics(path: Path) -> IO[bytes]:
    """Open for appending after the last whole line; written at once, for nothing is kept back.

    A file that has a second name, as in a copy made by `cp -l`, becomes one of its own.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    descriptor = open_regular(path, flags)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        write_atomic(path, path.read_bytes())
        descriptor = open_regular(path, flags)
    file = open(descriptor, "a+b", buffering=0)  # noqa: SIM115  (RunDir.close closes it)
    file.seek(0)
    whole, size = file.readall().rfind(b"\n") + 1, file.tell()
    if size > whole:
        file.truncate(whole)
    return file


def _row_key(row: Json) -> tuple[int, frozenset[str]]:
    return row["step"], frozenset(row)
