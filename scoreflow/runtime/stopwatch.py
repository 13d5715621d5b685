"""Wall-clock time of work on a device, whose queue is waited for at both ends."""

import time

import torch


class Stopwatch:
    """Seconds since it was made; reading it waits for the device.

    Args:
        device: whose work is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start = self._now()

    @property
    def seconds(self) -> float:
        """Since the start, in seconds, all work launched so far being done."""
        return self._now() - self._start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
