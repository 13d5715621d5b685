"""The data of each step: rows of a tensor, or read from the disk some steps ahead of their use.

Which data a step sees is a function of the seed and the step (`Batches`), so those of the next
steps are known, and a run that resumes needs to remember nothing.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from torch import Tensor

from scoreflow.data.dataset import Batches
from scoreflow.data.stored.images import Array, StoredImages

AHEAD = 4
"""Steps whose images are read while one is computed."""
THREADS = 4
"""That read them; each waits for the disk alone."""


@dataclass(eq=False)
class BatchReader:
    """Rows and values of a step's micro-batches.

    Args:
        values: the training data, on the device.
        places: of each micro-batch, its places in the batch, (b,) int64 on the device.
    """

    values: Tensor | StoredImages
    places: Sequence[Tensor]
    _rows: dict[tuple[Batches, int], Tensor] = field(default_factory=dict)
    _reads: dict[tuple[Batches, int], list["Future[Tensor]"]] = field(default_factory=dict)
    _host_places: list[Array] = field(default_factory=list)
    _pool: ThreadPoolExecutor | None = None

    def read(self, batches: Batches, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Which data a micro-batch sees, (b,) int64, and their values (b, ...), on the device.

        Args:
            batches: the order of the data.
            step: from 0; as a rule the same as in the last call, or the one after it.
            part: number of the micro-batch.
        """
        device, key = self.values.device, (batches, step)
        if key not in self._rows:
            self._rows = {key: batches.indices(step).to(device, non_blocking=True)}
        rows = self._rows[key][self.places[part]]
        if isinstance(self.values, StoredImages):
            values = self._arrived(self.values, batches, step)[part].result()
            return rows, values.to(device, non_blocking=True)
        return rows, self.values[rows]

    def _arrived(
        self, images: StoredImages, batches: Batches, step: int
    ) -> list["Future[Tensor]"]:
        """A step's images in the host's memory; those of the next steps are on the way."""
        wanted = [(batches, k) for k in range(step, step + AHEAD + 1)]
        self._reads = {
            key: self._reads[key] if key in self._reads else self._begun(images, *key)
            for key in wanted
        }
        return self._reads[wanted[0]]

    def _begun(self, images: StoredImages, batches: Batches, step: int) -> list["Future[Tensor]"]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "images")
        rows = batches.indices(step).numpy()
        if not self._host_places:  # once: what comes from a device is waited for
            self._host_places = [places.cpu().numpy() for places in self.places]
        parts = [rows[places] for places in self._host_places]
        return [self._pool.submit(images.on_host, part) for part in parts]
