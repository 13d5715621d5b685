"""MNIST for bits/dim on two CPU cores: --config.data.path=DIR for local Parquet."""

from ml_collections import ConfigDict

from scoreflow.configs import mnist


def get_config() -> ConfigDict:
    """What lowered bits/dim at a short budget: docs/likelihood.md, "MNIST".

    The network knows each pixel's histogram and learns the rest; every layer works at the finest
    level, where the bits are; its label is the log-SNR, in which the flow is smooth.
    """
    config = mnist.get_config()
    config.model.prediction = "residual"
    config.model.label = "log_snr"
    config.model.channels = 32
    config.model.multipliers = (1,)
    config.model.blocks = 3
    config.model.attention_sizes = ()
    config.model.attention_middle = False
    config.model.num_groups = 8
    config.model.dropout = 0.0
    config.training.num_steps = 8000
    config.training.batch_size = 32
    config.training.learning_rate = 2e-3
    config.training.warmup_steps = 100
    config.training.decay = "cosine"
    config.training.ema_decay = 0.999
    config.training.times = "log_normal"  # where pixels tell of each other
    config.training.log_normal_mean = -2.2
    config.training.log_normal_std = 2.0
    config.training.low_discrepancy = True
    config.training.channels_last = True
    config.training.log_every = 10
    config.training.checkpoint_every = 200
    config.sampling.num_images = 64
    config.likelihood.substeps = (
        2  # levels are narrow, and the flow turns where they are told apart
    )
    config.sampling.batch_size = 64
    config.likelihood.substeps = 2  # the flow turns sharply where levels are told apart
    return config
