"""CIFAR-10, 32x32 RGB, from the Hub or from local Parquet: --config.data.path=DIR."""

from ml_collections import ConfigDict

from scoreflow.configs import default


def get_config() -> ConfigDict:
    """DDPM's recipe: the defaults and horizontal flips; dequantized, unlike theirs."""
    config = default.get_config()
    config.data.name = "images"
    config.data.path = "uoft-cs/cifar10"
    config.training.flip = True
    return config
