"""FID, KID and the inception score with the standard Inception network, by torch-fidelity.

An extra, torch-fidelity, and weights that are not in this repository: a file, or the
package's own download. Images of any size are resized and grey ones get three channels, as the
package does and expects.
"""

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from scoreflow.data.levels import to_uint8
from scoreflow.errors import RequestError
from scoreflow.paths import user_path
from scoreflow.storage.atomic_files import Json

DOWNLOAD = "download"
SUBSET = 1000
"""Images of each of KID's subsets at most, as the package has it; half of them where they are
fewer. KID is unbiased, so their number is no part of what it measures."""


class Images(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity takes them, (3, H, W) uint8; each made when it is asked for."""

    def __init__(self, values: Tensor, num_levels: int) -> None:
        self.values, self.num_levels = values, num_levels

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, k: int) -> Tensor:
        image = to_uint8(self.values[k : k + 1], self.num_levels)[0].cpu()
        return image.expand(3, -1, -1) if len(image) == 1 else image


def scores(
    weights: str, num_levels: int | None, device: torch.device
) -> Callable[[Tensor, Tensor], Json]:
    """The function (values, reference values) -> scores, after trying all that it needs.

    Args:
        weights: a file, or "download".
        num_levels: of the images; None is refused, for there are none.
        device: where the network runs.

    Returns:
        fid; kid with kid_error, from the spread over random subsets of b of n by
        sqrt(b / (n - b)), as for a mean; inception_score with inception_score_error, from the
        spread over disjoint splits. FID has no error, and needs thousands of images to mean what
        it means in papers.

    Raises:
        RequestError: no package, no images, no file, another file, or no network to download by.
    """
    if num_levels is None:
        raise RequestError("compare.inception needs images; these data are vectors")
    if weights != DOWNLOAD and not user_path(weights, "compare.inception").is_file():
        raise RequestError(
            f'compare.inception: no such file {weights}; it is a file of weights or "{DOWNLOAD}"'
        )
    kept = None if weights == DOWNLOAD else _checked(weights)
    path = None if kept is None else str(Path(kept.name) / "inception.pth")
    _try_network(path, weights)

    def score(values: Tensor, reference: Tensor) -> Json:
        pair = Images(values, num_levels), Images(reference, num_levels)
        assert path is None or kept is not None, "its folder is there as long as this function"
        return _scores(*pair, path, device)

    return score


def _checked(weights: str) -> "TemporaryDirectory[str]":
    """The tensors of a file in a new one, in a folder of ours alone, which goes with the process.

    The package reads a path by itself, as a pickle that may run anything, and more than once. What
    it is given is what was checked: the user's file is read here, and never again.
    """
    try:
        content = user_path(weights, "compare.inception").read_bytes()
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
            raise TypeError("it holds other things than tensors by name")
    except Exception as error:  # whatever an unpickler raises
        raise RequestError(
            f"compare.inception: {weights} does not fit ({_first_line(error)})"
        ) from error
    try:
        folder = TemporaryDirectory(prefix="scoreflow-inception-")
        torch.save(state, Path(folder.name) / "inception.pth")
    except (OSError, RuntimeError) as error:  # torch's own, where the disk is full
        raise RequestError(
            f"compare.inception: no copy of {weights} can be written to a temporary folder "
            f"({_first_line(error)}): set TMPDIR to a folder with {len(content)} bytes of room"
        ) from error
    return folder


def _try_network(path: str | None, weights: str) -> None:
    """Refuse weights that do not fit, or that cannot be downloaded."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise RequestError(
            f"compare.inception needs the package torch-fidelity ({error}): "
            "pip install torch-fidelity"
        ) from error
    try:
        FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path)
    except Exception as error:  # whatever a download or an unpickler raises
        done = "the download of the weights failed" if path is None else f"{weights} does not fit"
        raise RequestError(f"compare.inception: {done} ({_first_line(error)})") from error


def _scores(samples: Images, reference: Images, path: str | None, device: torch.device) -> Json:
    import torch_fidelity

    n = min(len(samples), len(reference))
    subset, splits = min(SUBSET, n // 2), min(10, len(samples))
    found: dict[str, Any] = torch_fidelity.calculate_metrics(
        input1=samples,
        input2=reference,
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=subset,
        isc_splits=splits,
        feature_extractor_weights_path=path,
        cuda=device.type == "cuda",
        save_cpu_ram=True,  # and no processes of its own: the images are in memory
        verbose=False,
    )
    return {
        "fid": found["frechet_inception_distance"],
        "kid": found["kernel_inception_distance_mean"],
        "kid_error": found["kernel_inception_distance_std"] * (subset / (n - subset)) ** 0.5,
        "inception_score": found["inception_score_mean"],
        "inception_score_error": found["inception_score_std"] / (splits - 1) ** 0.5,
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
