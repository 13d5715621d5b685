"""diffusers' discrete schedulers: their betas, what the network predicts, how it was sampled.

Tables are float32 there; here the same formulas are evaluated in float64.
"""

from pathlib import Path

import torch

from scoreflow.errors import RequestError
from scoreflow.interop.diffusers import kinds
from scoreflow.interop.diffusers.folder import Json
from scoreflow.interop.diffusers.kinds import shown

CLASSES = {
    "DDPMScheduler",
    "GaussianDDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
}
"""Schedulers of a network that was trained on DDPM's chain, in whatever way they draw."""
DEFAULTS: Json = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
}
"""DDPMScheduler's own defaults of what matters, save that only `CLIPPING` clip."""
CLIPPING = {
    "DDPMScheduler",
    "GaussianDDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
}
"""Schedulers that clip their estimate of x_0 unless they are told not to; no others do."""
OWN_DEFAULTS: dict[str, Json] = {
    "HeunDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
}
"""Defaults of one scheduler that the others do not share."""
OF_DRAWING = {
    "flow_shift",
    "time_shift_type",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "skip_prk_steps",
    "solver_order",
    "solver_type",
    "algorithm_type",
    "lower_order_final",
    "euler_at_final",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "final_sigmas_type",
    "lambda_min_clipped",
    "predict_x0",
    "disable_corrector",
    "solver_p",
    "interpolation_type",
    "sigma_min",
    "sigma_max",
    "timestep_type",
    "timestep_values",
    "tensor_format",
    "clip_predicted_image",
}
"""Keys that change how samples are drawn and not what the network means. Those of flows are here
only as far as nothing comes of them while use_flow_sigmas is false."""
PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "posterior",
    "fixed_small_log": "posterior",
    "fixed_large": "beta",
    "fixed_large_log": "beta",
    "learned_range": "learned",
}
REMEDY = "wrap the network instead (docs/networks.md)"


def schedule(where: Path, config: Json) -> tuple[Json, dict[str, str]]:
    """Our keys of process, asking and sampling, and what was found.

    Args:
        where: the scheduler's file, for messages.
        config: its content.

    Raises:
        RequestError: another process, or a key or value that we do not have.
    """
    c = _checked(where, config)
    steps = c["num_train_timesteps"]
    noise, described = _betas(where, c, steps)
    learned = c["variance_type"] == "learned_range"
    settings = {
        "sde.name": "vp",
        "sde.num_steps": steps,
        **noise,
        "model.prediction": PREDICTIONS[c["prediction_type"]],
        "model.learned_variance": learned,
        "model.label": "time",
        "model.label_scale": 1.0,
        "model.label_offset": -1.0,
        "model.integer_times": True,
        "training.times": "integer",
        "training.dequantization": "centre",
        "training.objective": "hybrid" if learned else "simple",
        "sampling.variance": VARIANCES[c["variance_type"]],
        "sampling.clip": bool(c["clip_sample"]),
    }
    facts = {
        "schedule": f"{described}, {steps} steps",
        "prediction": c["prediction_type"],
        "label": "the step's index from 0, at the chain's integer times",
        "variance": c["variance_type"],
    }
    if c["thresholding"]:
        own = "clipped to the range of images" if c["clip_sample"] else "as they are"
        facts["thresholding"] = (
            "its pipeline cuts each x_0 at a quantile of its own pixels, which no sampler here "
            f"does: estimates are taken {own}"
        )
    return settings, facts


def _checked(where: Path, config: Json) -> Json:
    kind = config.get("_class_name", "DDPMScheduler")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise RequestError(
            f"{where}: _class_name must be of DDPM's chain, as DDPMScheduler, got {shown(kind)}: "
            f"{REMEDY}"
        )
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    if "timesteps" in given:  # the name in versions 0.0.x, which today's library passes over
        given.setdefault("num_train_timesteps", given.pop("timesteps"))
    for key, value in given.items():
        if key not in DEFAULTS and key not in OF_DRAWING and value not in (None, False):
            raise RequestError(
                f"{where}: {shown(key)} is not known here, got {shown(value)}: {REMEDY}"
            )
    if "clip_predicted_image" in given:  # its name in the same versions
        given.setdefault("clip_sample", given["clip_predicted_image"])
    own = {"clip_sample": kind in CLIPPING, **OWN_DEFAULTS.get(kind, {})}
    c: Json = {**DEFAULTS, **own, **{k: v for k, v in given.items() if k in DEFAULTS}}
    kinds.check(where, c, kinds.SCHEDULER)
    if c["variance_type"] is None:  # of solvers that draw no noise
        c["variance_type"] = DEFAULTS["variance_type"]
    if c["rescale_betas_zero_snr"]:
        raise RequestError(
            f"{where}: rescale_betas_zero_snr = true leaves no signal at the last step, where the "
            "log-SNR is minus infinity and x_0 cannot be had from eps: likelihood and samplers "
            "need a chain that ends above it, so train or import one without"
        )
    for key, known in (("prediction_type", PREDICTIONS), ("variance_type", VARIANCES)):
        if c[key] not in known:
            raise RequestError(
                f"{where}: {key} must be one of {', '.join(known)}, got {shown(c[key])}: {REMEDY}"
            )
    if c["clip_sample"] and c["clip_sample_range"] != 1:
        raise RequestError(
            f"{where}: clip_sample_range must be 1, the range of images, got "
            f"{c['clip_sample_range']}: set it to 1, or clip_sample to false"
        )
    return c


def _betas(where: Path, c: Json, steps: int) -> tuple[Json, str]:
    """The keys of the schedule, and its name with its ends."""
    low, high, name = float(c["beta_start"]), float(c["beta_end"]), c["beta_schedule"]
    ends = {"sde.beta_min": steps * low, "sde.beta_max": steps * high}
    ends_told = f"betas from {low:g} to {high:g}"
    if c["trained_betas"] is not None:
        own = tuple(map(float, c["trained_betas"]))
        if len(own) != steps:
            raise RequestError(
                f"{where}: trained_betas must have num_train_timesteps = {steps} values, has "
                f"{len(own)}"
            )
        return {"sde.schedule": "betas", "sde.betas": own}, "betas listed in the file"
    match name:
        case "linear":
            return {"sde.schedule": "linear", **ends}, f"linear {ends_told}"
        case "scaled_linear":
            return {"sde.schedule": "scaled_linear", **ends}, f"{ends_told}, their roots linear"
        case "squaredcos_cap_v2":
            return {"sde.schedule": "cosine"}, "cosine"
        case "sigmoid":
            places = torch.linspace(-6, 6, steps, dtype=torch.float64)
            own = tuple((places.sigmoid() * (high - low) + low).tolist())
            return {"sde.schedule": "betas", "sde.betas": own}, f"sigmoid {ends_told}"
    raise RequestError(
        f"{where}: beta_schedule must be linear, scaled_linear, squaredcos_cap_v2 or sigmoid, got "
        f"{shown(name)}: list its betas as trained_betas"
    )
