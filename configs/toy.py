"""Eight Gaussians in the plane, learned by an MLP: every density is known in closed form."""

from ml_collections import ConfigDict

from scoreflow.configs import default


def get_config() -> ConfigDict:
    """A minute and a half on one core."""
    config = default.get_config()
    config.data.name = "toy"
    config.sde.schedule = "log_linear"
    config.sde.sigma_min = 5e-3  # against components of width 0.1
    config.model.name = "mlp"
    config.model.prediction = "v"
    config.training.num_steps = 4000
    config.training.batch_size = 512
    config.training.learning_rate = 2e-3
    config.training.warmup_steps = 100
    config.training.decay = "cosine"
    config.training.ema_decay = 0.995
    config.training.log_every = 100
    config.training.checkpoint_every = 2000
    config.sampling.num_images = 2048
    config.sampling.batch_size = 2048
    config.sampling.steps = 200
    config.sampling.clip = False
    config.sampling.corrector = "annealed"
    config.equivalence.num_images = 512
    config.likelihood.probes = 0
    config.likelihood.batch_size = 1024
    return config
