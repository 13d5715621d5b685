"""The table of samplers: what a config, the command line and reports know of each, by name.

A new sampler is a file in `samplers/`, a name in its `__init__`, and a row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SamplerEntry:
    """One sampler.

    Attributes:
        method: its class in `scoreflow.samplers`.
        meaning: one line.
        keys: keys of the `sampling` section that are arguments of the class.
        fixed: arguments that no key sets.
        high_order: made for few steps at real times: log-SNR grid and `FEW_STEPS` by default.
        evaluations: of the network in a step; of the last step one.
        predicts: whether it may be the predictor of "pc".
        not_divisible: why a method of editing cannot act between its steps, "" where it can.
    """

    method: str
    meaning: str
    keys: tuple[str, ...] = ()
    fixed: Mapping[str, int | bool] = field(default_factory=dict)
    high_order: bool = False
    evaluations: int = 1
    predicts: bool = True
    not_divisible: str = ""


SAMPLERS = {
    "ancestral": SamplerEntry(
        "Ancestral", "the reverse of the chain (Ho et al. 2020, Algorithm 2)", ("variance",)
    ),
    "pc": SamplerEntry(
        "PredictorCorrector",
        "a predictor's step, then Langevin steps (Song et al. 2021)",
        ("predictor", "corrector", "snr", "corrections"),
        predicts=False,
    ),
    "ode": SamplerEntry(
        "ProbabilityFlow",
        "the probability flow by an adaptive solver (Song et al. 2021)",
        ("method", "tolerance", "max_evaluations"),
        predicts=False,
        not_divisible="chooses its own steps, and one goes all the way",
    ),
    "ddim": SamplerEntry("DDIM", "DDIM (Song, Meng & Ermon 2021)", ("eta",)),
    "reverse_diffusion": SamplerEntry(
        "ReverseDiffusion", "the reverse-time SDE, discretised as the chain is (Song et al. 2021)"
    ),
    "euler_maruyama": SamplerEntry("EulerMaruyama", "Euler-Maruyama on the reverse-time SDE"),
    "heun": SamplerEntry(
        "Heun",
        "Heun's method with churn (Karras et al. 2022)",
        ("churn",),
        high_order=True,
        evaluations=2,
    ),
    "dpm": SamplerEntry(
        "DPMSolver", "DPM-Solver++, multistep (Lu et al. 2022)", ("order",), high_order=True
    ),
    "dpm_sde": SamplerEntry(
        "DPMSolver",
        "SDE-DPM-Solver++ of order 2 (Lu et al. 2022)",
        fixed={"order": 2, "stochastic": True},
        high_order=True,
    ),
    "deis": SamplerEntry("DEIS", "DEIS (Zhang & Chen 2023)", ("order",), high_order=True),
    "unipc": SamplerEntry(
        "UniPC",
        "UniPC (Zhao et al. 2023)",
        ("order",),
        high_order=True,
        not_divisible="corrects the state that a step left",
    ),
}
NAMES = tuple(SAMPLERS)
PREDICTORS = tuple(name for name, entry in SAMPLERS.items() if entry.predicts)
HIGH_ORDER = tuple(name for name, entry in SAMPLERS.items() if entry.high_order)
FEW_STEPS = 20
"""Steps of those of high order, where a config leaves them open."""
AFTER_TRAINING = ("ancestral", "pc", "ode")
"""Samplers that a training ends with."""


ON_A_GRID = ("steps", "grid", "shift", "final", "clip", "dynamic_threshold")
"""Keys of the `sampling` section that every method reads but the adaptive flow."""


def stepping(name: str, predictor: str) -> str:
    """The sampler that makes the steps: of "pc", its predictor."""
    return predictor if name == "pc" else name


def users_of(key: str) -> tuple[str, ...]:
    """The samplers of which a key of the `sampling` section is an argument."""
    return tuple(name for name, entry in SAMPLERS.items() if key in entry.keys)


def readers_of(key: str) -> tuple[str, ...]:
    """The samplers that read a key of the `sampling` section; none named where all do."""
    if key in ON_A_GRID:
        return tuple(name for name in NAMES if name != "ode")
    return users_of(key)
