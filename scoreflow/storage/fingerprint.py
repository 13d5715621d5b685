"""SHA-256 of a network's weights."""

import hashlib

from torch import nn


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
