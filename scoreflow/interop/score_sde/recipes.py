"""What score_sde's files do not say: the questions, and the answers of its published configs.

A recipe has the name of the config, configs/NAME.py of score_sde_pytorch. Left out are those of
`ncsnpp` at 256 pixels and more, which add the input and the outputs of all levels by other
convolutions (progressive = output_skip): our U-Net has no switches for them.
"""

from typing import Any

from scoreflow.interop.options import Asked

ASKED = (
    Asked("sde", str, "its process (training.sde)", choices=("vp", "subvp", "ve")),
    Asked("continuous", bool, "trained at real times (training.continuous)"),
    Asked("size", int, "side of its images in pixels (data.image_size)"),
    Asked("fir", bool, "ncsnpp: resizes by the filter [1, 3, 3, 1] (model.fir)"),
    Asked("skip_rescale", bool, "sums over sqrt 2; default: ncsnpp's (model.skip_rescale)"),
    Asked("centered", bool, "images in [-1, 1], not [0, 1]; default: not with ve"),
    Asked("scale_by_sigma", bool, "its output is over sigma; default: with ve"),
    Asked("beta_min", float, "vp, subvp: N times the first beta", 0.1),
    Asked("beta_max", float, "vp, subvp: N times the last beta", 20.0),
    Asked("dropout", float, "dropout of its training", 0.0),
    Asked("norm_groups", int, "groups of each norm, or the most of them; 32 in the original", 32),
)
"""Options of this reader. Those without a default have one where the file gives a hint."""


def _with(sde: str, continuous: bool, fir: bool | None = None) -> dict[str, Any]:
    found = {"sde": sde, "continuous": continuous, "size": 32, "dropout": 0.1}
    return found if fir is None else found | {"fir": fir}


_DDPM_256 = {"sde": "vp", "continuous": False, "size": 256}
RECIPES: dict[str, dict[str, Any]] = {
    "vp/ddpm/cifar10": _with("vp", False),
    "vp/ddpm/cifar10_unconditional": _with("vp", False),
    "vp/ddpm/cifar10_continuous": _with("vp", True),
    "vp/ddpm/bedroom": _DDPM_256,
    "vp/ddpm/church": _DDPM_256,
    "vp/ddpm/celebahq": _DDPM_256,
    "vp/cifar10_ddpmpp": _with("vp", False, False),
    "vp/cifar10_ddpmpp_continuous": _with("vp", True, False),
    "vp/cifar10_ddpmpp_deep_continuous": _with("vp", True, False),
    "vp/cifar10_ncsnpp": _with("vp", False, True),
    "vp/cifar10_ncsnpp_continuous": _with("vp", True, True),
    "vp/cifar10_ncsnpp_deep_continuous": _with("vp", True, True),
    "subvp/cifar10_ddpm_continuous": _with("subvp", True),
    "subvp/cifar10_ddpmpp_continuous": _with("subvp", True, False),
    "subvp/cifar10_ddpmpp_deep_continuous": _with("subvp", True, False),
    "subvp/cifar10_ncsnpp_continuous": _with("subvp", True, True),
    "subvp/cifar10_ncsnpp_deep_continuous": _with("subvp", True, True),
    "ve/cifar10_ddpm": _with("ve", False),
    "ve/cifar10_ncsnpp": _with("ve", False, True),
    "ve/cifar10_ncsnpp_continuous": _with("ve", True, True),
    "ve/cifar10_ncsnpp_deep_continuous": _with("ve", True, True),
}
"""Options of each published config that can be had."""
