"""A hash of a network's weights."""

import hashlib

from scoreflow.models.score_model import ScoreModel


def fingerprint(model: ScoreModel) -> str:
    """A hash of the network's weights."""
    digest = hashlib.sha256()
    for name, value in model.network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
