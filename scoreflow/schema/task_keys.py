"""Editing tasks and the config keys that each reads."""

from typing import Any

from scoreflow.errors import RequestError

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
    """Refuse an override of `control`, or a sampler, that would have no effect.

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
