"""ScoreFlow: score-based and diffusion models as one discrete VP-SDE.

    import scoreflow as sf

    run = sf.load("runs/digits-vp")                                # a trained run
    x = run.sample(64, sampler="dpm", steps=20, seed=0)            # (64, 1, 8, 8) levels
    found = run.log_likelihood(run.data.test[:32], probes=2)       # exact, with an error budget
    own = sf.ScoreModel(my_network, sf.VPSDE.linear(1000), "eps")  # any nn.Module (x, index)

Importing this costs nothing: a name brings its module, and torch, when it is first used.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoreflow.version import __version__

_CHECKOUT = Path(__file__).resolve().parents[1]
if not (Path(__file__).parent / "sde").is_dir() and (_CHECKOUT / "run.py").is_file():
    __path__.append(str(_CHECKOUT))  # a checkout without symbolic links (Windows)

if TYPE_CHECKING:
    from scoreflow.any_model import bits_per_dim, sample
    from scoreflow.comparison.runs import RunsCompared, compare
    from scoreflow.errors import RequestError, RunError
    from scoreflow.imported_run import import_network
    from scoreflow.likelihood.error_budget import Budget
    from scoreflow.likelihood.flow_likelihood import LogLikelihood, Solver, log_likelihood
    from scoreflow.likelihood.log_likelihoods import LogLikelihoods
    from scoreflow.models.score_model import ScoreModel
    from scoreflow.run_table import table
    from scoreflow.sde.base import SDE
    from scoreflow.sde.noise import Noise
    from scoreflow.sde.prediction import Denoiser, Prediction
    from scoreflow.sde.processes.edm import EDMSDE
    from scoreflow.sde.processes.rectified import RectifiedSDE
    from scoreflow.sde.processes.subvp import SubVPSDE
    from scoreflow.sde.processes.ve import VESDE
    from scoreflow.sde.processes.vp import VPSDE
    from scoreflow.trained_run import TrainedRun, load
    from scoreflow.training.trainer import Interval
    from scoreflow.training_run import train

_MODULES = {
    "any_model": ("bits_per_dim", "sample"),
    "comparison.runs": ("RunsCompared", "compare"),
    "errors": ("RequestError", "RunError"),
    "imported_run": ("import_network",),
    "likelihood.error_budget": ("Budget",),
    "likelihood.flow_likelihood": ("LogLikelihood", "Solver", "log_likelihood"),
    "likelihood.log_likelihoods": ("LogLikelihoods",),
    "models.score_model": ("ScoreModel",),
    "run_table": ("table",),
    "sde.base": ("SDE",),
    "sde.noise": ("Noise",),
    "sde.prediction": ("Denoiser", "Prediction"),
    "sde.processes.edm": ("EDMSDE",),
    "sde.processes.rectified": ("RectifiedSDE",),
    "sde.processes.subvp": ("SubVPSDE",),
    "sde.processes.ve": ("VESDE",),
    "sde.processes.vp": ("VPSDE",),
    "trained_run": ("TrainedRun", "load"),
    "training.trainer": ("Interval",),
    "training_run": ("train",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_ROOMS = ("samplers", "sde")

__all__ = [
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "Budget",
    "Denoiser",
    "Interval",
    "LogLikelihood",
    "LogLikelihoods",
    "Noise",
    "Prediction",
    "RectifiedSDE",
    "RequestError",
    "RunError",
    "RunsCompared",
    "ScoreModel",
    "Solver",
    "SubVPSDE",
    "TrainedRun",
    "__version__",
    "bits_per_dim",
    "compare",
    "import_network",
    "load",
    "log_likelihood",
    "sample",
    "samplers",
    "sde",
    "table",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _ROOMS:
        return importlib.import_module(f"scoreflow.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'scoreflow' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"scoreflow.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
