"""Curves for TensorBoard, written by this thread into one new file.

TensorBoard's own writer has a thread that opens its file by name at every record: where the
folder was moved or the disk is full it prints a traceback, and ends the training by another. Here
a record is a write to an open file, and curves that cannot be written are left out with a line:
every number of theirs is in metrics.jsonl as well.
"""

import os
import secrets
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np


class Curves:
    """An event file, from construction to `close` or as a context manager.

    Args:
        folder: of all event files of a run, made if it is not there.
        first: the step of the first record; what earlier files say of it and of later ones is
            passed over.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # seconds that other modes save

        self.folder = folder
        self._file: IO[bytes] | None = None
        try:
            folder.mkdir(exist_ok=True)
            self._file = open(self._new(), "xb", buffering=0)  # noqa: SIM115  (`close` does)
        except OSError as error:
            self._give_up(error)
        self._write(file_version="brain.Event:2")
        self._write(first, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        """A point of a curve."""
        from torch.utils.tensorboard.summary import scalar

        self._write(step, summary=scalar(name, value))

    def text(self, name: str, text: str, step: int) -> None:
        """A remark."""
        from torch.utils.tensorboard.summary import text as summary

        self._write(step, summary=summary(name, text))

    def image(self, name: str, pixels: np.ndarray[Any, Any], step: int) -> None:
        """A picture, (H, W, 3) of uint8."""
        from torch.utils.tensorboard.summary import image

        self._write(step, summary=image(name, pixels, dataformats="HWC"))

    def close(self) -> None:
        """No more records."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _new(self) -> Path:
        """A name as TensorBoard looks for, which nobody can foresee and make a link of."""
        when, where = f"{int(time.time()):010d}", socket.gethostname()
        name = f"events.out.tfevents.{when}.{where}.{os.getpid()}.{secrets.token_hex(8)}"
        return self.folder / name

    def _write(self, step: int = 0, **content: Any) -> None:  # noqa: ANN401
        """One record, whole."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            return
        event = Event(wall_time=time.time(), step=step, **content)
        try:
            RecordWriter(self._file).write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.close()
        print(
            f"{self.folder} cannot be written ({error.strerror}): the training goes on without "
            "curves for TensorBoard; metrics.jsonl has the same numbers",
            file=sys.stderr,
        )
