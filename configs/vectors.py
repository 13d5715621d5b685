"""The rows of a table of real numbers, --config.data.path=TABLE.csv, by an MLP; nats a row."""

from ml_collections import ConfigDict

from scoreflow.configs import toy


def get_config() -> ConfigDict:
    """As the toy: minutes on one core."""
    config = toy.get_config()
    config.data.name = "vectors"
    config.model.width = 256
    config.training.num_steps = 10_000
    return config
