"""Digits by class: a generative classifier (--mode classify), five minutes on a core."""

from ml_collections import ConfigDict

from scoreflow.configs import digits


def get_config() -> ConfigDict:
    """What told held-out training images apart best: docs/classification.md."""
    config = digits.get_config()
    config.model.conditional = True
    config.model.prediction = "residual"  # pixels alone are known; what is learned is the shape
    config.model.dropout = 0.1  # a class has 144 images
    config.training.num_steps = 3000
    return config
