"""MNIST, 28x28 grey, from the Hub or from local Parquet: --config.data.path=DIR."""

from ml_collections import ConfigDict

from scoreflow.configs import default


def get_config() -> ConfigDict:
    """Sizes 28, 14 and 7: no padding, so bits/dim count the original 784 dimensions."""
    config = default.get_config()
    config.data.name = "images"
    config.data.path = "ylecun/mnist"
    config.sde.schedule = "log_linear"
    config.sde.sigma_min = 2.5e-5  # far below a level's width of 2/256
    config.model.prediction = "v"
    config.model.channels = 64
    config.model.multipliers = (1, 2, 2)
    config.model.attention_sizes = (14,)
    config.training.num_steps = 50_000
    config.training.warmup_steps = 1000
    config.training.ema_decay = 0.999
    config.training.checkpoint_every = 1000
    return config
