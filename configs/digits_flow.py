"""The digits by flow matching: the straight path, its velocity, uniform times."""

from ml_collections import ConfigDict

from scoreflow.configs import digits


def get_config() -> ConfigDict:
    """Rectified flow and the conditional flow matching of Lipman et al. 2023, from t = 1 on.

    The network is called as diffusers calls one, f(x_t, t), so that it can be exported: x_t has
    0.7 to 1 times the size of x_t / r.
    """
    config = digits.get_config()
    config.sde.name = "rectified"
    config.model.prediction = "u"
    config.model.label_offset = 0.0
    config.model.input_scale = "none"
    config.training.objective = "flow_matching"
    config.training.times = "real"
    return config
