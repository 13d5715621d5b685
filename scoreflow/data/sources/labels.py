"""Labels of images as class numbers."""

import torch
from torch import Tensor

from scoreflow.errors import RequestError


def numbered(labels: list[int | None], where: str) -> Tensor | None:
    """The classes of images, (n,) int64; None where no image has one."""
    if all(label is None for label in labels):
        return None
    for index, label in enumerate(labels):
        if not isinstance(label, int) or label < 0:
            raise RequestError(
                f"{where}: all images need a class or none (integers from 0), got {label!r} for"
                f" image {index}"
            )
    return torch.tensor(labels, dtype=torch.int64)
