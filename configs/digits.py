"""scikit-learn's 1797 handwritten digits, 8x8, 17 levels: minutes on two cores, no download."""

from ml_collections import ConfigDict

from scoreflow.configs import default


def get_config() -> ConfigDict:
    """A small U-Net of DDPM's kind; a schedule that ends far below a level's width of 2/17."""
    config = default.get_config()
    config.sde.schedule = "log_linear"
    config.sde.sigma_min = 4e-4
    config.model.prediction = "v"  # near the prior an eps says little of x_0
    config.model.channels = 32
    config.model.multipliers = (1, 2)
    config.model.blocks = 1
    config.model.attention_sizes = (4,)
    config.model.num_groups = 8
    config.model.dropout = 0.0  # two thousand steps do not overfit
    config.training.num_steps = 2000
    config.training.batch_size = 64
    config.training.learning_rate = 3e-3
    config.training.warmup_steps = 50
    config.training.decay = "cosine"
    config.training.ema_decay = 0.995
    config.training.channels_last = True
    config.training.log_every = 10
    config.training.checkpoint_every = 500
    config.sampling.num_images = 512
    config.sampling.batch_size = 256
    config.sampling.steps = 64
    config.sampling.tolerance = 1e-3
    config.likelihood.tolerance = 1e-3
    config.likelihood.tolerance_bits = 1e-3
    return config
