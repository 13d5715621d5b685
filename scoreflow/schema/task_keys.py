"""Editing tasks and the config keys that each reads."""

from typing import Any

from scoreflow.errors import RequestError
from scoreflow.schema.samplers import NAMES, readers_of, stepping

READ = ("image", "fit", "mode", "background")
"""Keys of the given image."""
MEASURED = {
    "inpaint": (*READ, "mask", "method", "count"),
    "colorize": (*READ, "method", "count"),
    "superresolve": (*READ, "factor", "method", "count"),
}
"""Given a measurement of an image, images that fit it."""
LATENT_TASKS = {
    "reconstruct": (*READ, "count"),
    "interpolate": (*READ, "other", "count"),
}
"""Tasks that encode images to latents and decode them."""
TASKS = {**MEASURED, **LATENT_TASKS, "vary": (*READ, "strength", "count")}
SAVED = ("npz", "pt")
"""What sampling.save may be for a task, besides a picture."""
METHODS: dict[str, tuple[str, ...]] = {
    "replace": (),
    "dps": ("weight",),
    "mmps": ("noise", "iterations"),
}


def refuse_unread_keys(config: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Refuse an override of `control` or `sampling`, or a sampler, that would have no effect.

    Args:
        config: the whole config by dotted keys, its names perhaps wrong.
        overrides: the keys that the user has set, with their values.
    """
    task, method = config["sampling.task"], config["control.method"]
    if task not in ("none", *TASKS) or method not in METHODS:
        return  # which is refused where names are chosen
    read = TASKS.get(task, ()) + (METHODS[method] if task in MEASURED else ())
    for key in overrides:
        section, _, name = key.partition(".")
        if section == "control" and name not in read:
            by = f" by {method}" if task in MEASURED else ""
            raise RequestError(f"{key} has no effect on sampling.task = {task}{by}; leave it out")
    if task in LATENT_TASKS and overrides.get("sampling.sampler", "ode") != "ode":
        raise RequestError(
            f"sampling.task = {task} follows the probability flow: its sampler is ode, got "
            f"{overrides['sampling.sampler']}"
        )
    refuse_keys_of_other_samplers(config, overrides)
    if task != "none" and overrides.get("sampling.progressive"):
        raise RequestError(
            f"sampling.progressive has no effect on sampling.task = {task}: it shows images drawn "
            "without a task; leave it out"
        )
    if task != "none" and overrides.get("sampling.save", "grid") not in ("grid", *SAVED):
        raise RequestError(
            f"sampling.save has no effect on sampling.task = {task}, but for {' and '.join(SAVED)}"
            f": a file of all arrays, got {overrides['sampling.save']}"
        )


def refuse_keys_of_other_samplers(config: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Refuse an override of `sampling` that the sampler, and pc's predictor, do not read.

    Args:
        config: the whole config by dotted keys, its names perhaps wrong.
        overrides: as above.
    """
    flown = config["sampling.task"] in LATENT_TASKS
    name = "ode" if flown else config["sampling.sampler"]
    by = {name, stepping(name, config["sampling.predictor"])}
    for key in overrides:
        section, _, option = key.partition(".")
        readers = readers_of(option) if section == "sampling" else ()
        if not readers or by & {*readers} or not by <= {*NAMES}:
            continue
        what = "sampling.task" if flown else "sampling.sampler"
        remedy = "" if flown else f"add --sampler {readers[0]}, or "
        raise RequestError(f"{key} has no effect on {what} = {config[what]}: {remedy}leave it out")
