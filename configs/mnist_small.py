"""MNIST on one CPU core, in about forty minutes: --config.data.path=DIR."""

from ml_collections import ConfigDict

from scoreflow.configs import mnist


def get_config() -> ConfigDict:
    """A small U-Net without dropout, and a cosine decay to the end of 3000 steps."""
    config = mnist.get_config()
    config.model.channels = 32
    config.model.blocks = 1
    config.model.attention_sizes = (7,)
    config.model.num_groups = 8
    config.model.dropout = 0.0
    config.training.batch_size = 32
    config.training.learning_rate = 2e-3
    config.training.warmup_steps = 100
    config.training.decay = "cosine"
    config.training.ema_decay = 0.995
    config.training.num_steps = 3000
    config.training.log_every = 20
    config.training.checkpoint_every = 500
    config.training.channels_last = True
    config.sampling.num_images = 64
    config.sampling.steps = 100
    config.sampling.tolerance = 1e-3
    config.likelihood.num_images = 200
    config.likelihood.tolerance = 1e-3
    config.likelihood.tolerance_bits = 1e-3
    config.likelihood.probes = 1
    return config
