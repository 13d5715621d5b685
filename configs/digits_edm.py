"""The digits by EDM's recipe (Karras et al. 2022): its process, network output, times and loss."""

from ml_collections import ConfigDict

from scoreflow.configs import digits


def get_config() -> ConfigDict:
    """EDM's preconditioned F is -v of x_0 / data_std, its label ln(sigma) / 4.

    P_mean and P_std are the defaults of `training.log_normal_mean` and `log_normal_std`.
    """
    config = digits.get_config()
    config.sde.name = "edm"
    config.sde.sigma_min = 0.002
    config.sde.sigma_max = 80.0
    config.model.prediction = "v"
    config.model.data_std = 0.71  # the digits' standard deviation in [-1, 1]
    config.model.label = "log_sigma"
    config.model.label_scale = 0.25
    config.model.label_offset = 0.0
    config.training.objective = "edm"
    config.training.times = "log_normal"
    return config
