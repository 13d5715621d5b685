"""What cannot be trained where a process ends without signal, as the rectified path does.

alpha is 0 at t = N there. An error of x_0, v or u is finite all the same, but an error of the
noise is one of these times alpha: weighted as one of them, its mean over uniform times is
infinite. So is what divides by alpha at N itself, or counts to where the log-SNR is -inf.
Log-normal times thin out towards N faster than 1 / alpha^2 grows, and their mean is finite.
"""

from scoreflow.errors import RequestError
from scoreflow.losses.objective import Objective
from scoreflow.models.score_model import OUTPUTS_OF_NOISE
from scoreflow.sde.base import SDE, ends_without_signal

OF_THE_DATUM = {
    "likelihood": "is the error of x_0 times the slope of the SNR",
    "variational": "compares estimates of x_0",
    "hybrid": "compares estimates of x_0",
    "velocity": "is the error of v",
    "flow_matching": "is the error of u",
    "edm": "is the error of x_0",
}
"""Objectives that a noise error enters divided by alpha, and why."""
HERE = "alpha is 0 at t = N of this process (sde.name)"


def refuse_unbounded(objective: Objective, output: str, sde: SDE) -> None:
    """Refuse an objective that is infinite on a process that ends without signal.

    Args:
        objective: the loss and its times.
        output: what the network estimates, `ScoreModel.output`.
        sde: the process.

    Raises:
        RequestError: says which key makes it infinite, and what to set.
    """
    if not ends_without_signal(sde):
        return
    name, times = objective.name, objective.times
    if times == "importance":
        raise RequestError(
            f"training.times = importance is uniform in log-SNR, which has no end: {HERE}; set "
            "training.times = real"
        )
    if name == "mean":
        raise RequestError(
            "training.objective = mean weighs the noise error by (alpha_s w / (sigma alpha))^2, "
            f"which is infinite: {HERE}; set training.objective = simple"
        )
    if name == "likelihood" and times == "integer":
        raise RequestError(
            "training.objective = likelihood weighs by the slope of the log-SNR, which at the "
            f"integer t = N is infinite: {HERE}; set training.times = real"
        )
    if name in OF_THE_DATUM and output in OUTPUTS_OF_NOISE and times != "log_normal":
        raise RequestError(
            f"model.prediction = {output} with training.objective = {name}, which "
            f"{OF_THE_DATUM[name]}, is an error divided by alpha, whose mean is infinite: {HERE}; "
            "set model.prediction = u, v or x_0, or training.objective = simple"
        )
