"""The digits by flow matching: the straight path, its velocity, uniform times."""

from ml_collections import ConfigDict

from scoreflow.configs import digits


def get_config() -> ConfigDict:
    """Rectified flow and the conditional flow matching of Lipman et al. 2023, from t = 1 on."""
    config = digits.get_config()
    config.sde.name = "rectified"
    config.model.prediction = "u"
    config.training.objective = "flow_matching"
    config.training.times = "real"
    return config
