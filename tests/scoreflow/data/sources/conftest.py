"""Small data sets as people have them, made in a test's own folder."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.errors import RequestError


class Made:
    """Pictures and files of them.

    Args:
        root: the test's folder.
    """

    def __init__(self, root):
        self.root, self.random = root, np.random.default_rng(0)

    def pictures(self, count, shape=(5, 4, 3)):
        """Random pictures, (count, H, W, 3) or (count, H, W) uint8."""
        return self.random.integers(0, 256, (count, *shape), dtype=np.uint8)

    @staticmethod
    def png(pixels):
        """The bytes of a PNG file."""
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        return stream.getvalue()

    def files(self, folder, pictures, names=None):
        """PNG files, 000.png and so on unless they are named."""
        for k, picture in enumerate(pictures):
            path = self.root / folder / (names[k] if names else f"{k:03}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.png(picture))
        return str(self.root / folder.split("/")[0])

    def table(self, file, pictures=(), kind=None, cells=None, image="image", **columns):
        """A Parquet or Arrow file; by default in the Hugging Face image schema."""
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        kind = kind or pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        if cells is None:
            cells = [{"bytes": self.png(picture), "path": None} for picture in pictures]
        arrays = {image: pa.array(cells, kind)}
        for name, values in columns.items():
            arrays[name] = values if isinstance(values, pa.Array) else pa.array(values)
        path, table = self.root / file, pa.table(arrays)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            parquet.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
                out.write_table(table)
        return str(self.root / file.split("/")[0])

    @staticmethod
    def planar(pictures):
        """The tensor (n, C, H, W) that a loader should return for pictures (n, H, W[, 3])."""
        tensor = torch.from_numpy(np.asarray(pictures))
        return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)

    def holds(self, data, train, test):
        """Whether a data set has exactly these pictures in its parts, in order."""
        same = torch.equal(data.train, self.planar(train))
        return same and torch.equal(data.test, self.planar(test))

    @staticmethod
    def refused(match, call, *args, **settings):
        """Assert that a call is refused in one line that matches."""
        with pytest.raises(RequestError, match=match) as refusal:
            call(*args, **settings)
        assert "\n" not in str(refusal.value)


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)
