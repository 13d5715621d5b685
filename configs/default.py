"""The default config: every key with its default, as declared in `scoreflow.schema`.

docs/config.md lists the keys with their meanings; experiments change some of the values.
"""

from ml_collections import ConfigDict

from scoreflow.schema.config import Config


def get_config() -> ConfigDict:
    """DDPM's CIFAR-10 recipe (Ho et al. 2020, section 4 and appendix B), on the digits."""
    return Config().to_config_dict()
