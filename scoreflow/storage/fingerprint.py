"""SHA-256 of a network's weights."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, with their names."""
    return fingerprint_of(network.state_dict())


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """The same of weights by name, in their order."""
    digest = hashlib.sha256()
    for name, value in _on_cpu(weights).items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _on_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their numbers in order, brought from a GPU by one copy for each dtype."""
    flat = {name: value.detach().flatten() for name, value in weights.items()}
    for dtype in {value.dtype for value in flat.values() if not value.is_cpu}:
        away = [name for name, v in flat.items() if v.dtype == dtype and not v.is_cpu]
        there = torch.cat([flat[name] for name in away]).cpu()
        pieces = there.split([flat[name].numel() for name in away])
        flat |= dict(zip(away, pieces, strict=True))
    return flat
