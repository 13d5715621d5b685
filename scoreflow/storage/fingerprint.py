"""SHA-256 of a network's weights."""

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, with their names."""
    return fingerprint_of(network.state_dict())


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """The same of weights by name, in their order."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
