"""Published networks of OpenAI's two codebases: what their files do not say, by the files' names.

From the READMEs of openai/improved-diffusion (its models and hyper-parameters) and
openai/guided-diffusion (its flags for sampling); what these leave out has the scripts' default. A
recipe is how the network was trained, not how the README samples from it.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Flags of a published network.

    Attributes:
        format: the codebase.
        options: of its reader, by name.
    """

    format: str
    options: dict[str, Any]


_COSINE_4000 = {"schedule": "cosine", "steps": 4000}
_LINEAR_1000 = {"schedule": "linear", "steps": 1000}
_AS_IT_IS = {"rescale_timesteps": False}
_IMAGENET64 = {"size": 64, "heads": 4, **_COSINE_4000}
_CIFAR10 = {"size": 32, "heads": 4, "dropout": 0.3, **_COSINE_4000}
_BEDROOM = {"size": 256, "heads": 1, **_LINEAR_1000, **_AS_IT_IS}
_ADM = {"head_channels": 64, **_LINEAR_1000, **_AS_IT_IS}

RECIPES = {
    "imagenet64_uncond_100M_1500K": Recipe("improved_diffusion", _IMAGENET64),
    "imagenet64_uncond_vlb_100M_1500K": Recipe("improved_diffusion", _IMAGENET64),
    "imagenet64_cond_270M_250K": Recipe("improved_diffusion", {**_IMAGENET64, **_AS_IT_IS}),
    "cifar10_uncond_50M_500K": Recipe("improved_diffusion", _CIFAR10),
    "cifar10_uncond_vlb_50M_500K": Recipe("improved_diffusion", _CIFAR10),
    "lsun_uncond_100M_1200K_bs128": Recipe("improved_diffusion", _BEDROOM),
    "lsun_uncond_100M_2400K_bs64": Recipe("improved_diffusion", _BEDROOM),
    "64x64_diffusion": Recipe(
        "guided_diffusion",
        {
            "size": 64,
            "head_channels": 64,
            "attention_order": "qkv_major",
            "schedule": "cosine",
            "steps": 1000,
            "dropout": 0.1,
            **_AS_IT_IS,
        },
    ),
    "128x128_diffusion": Recipe(
        "guided_diffusion", {"size": 128, "heads": 4, **_LINEAR_1000, **_AS_IT_IS}
    ),
    "256x256_diffusion": Recipe("guided_diffusion", {"size": 256, **_ADM}),
    "256x256_diffusion_uncond": Recipe("guided_diffusion", {"size": 256, **_ADM}),
    "lsun_bedroom": Recipe("guided_diffusion", {"size": 256, "dropout": 0.1, **_ADM}),
    "lsun_cat": Recipe("guided_diffusion", {"size": 256, "dropout": 0.1, **_ADM}),
    "lsun_horse": Recipe("guided_diffusion", {"size": 256, "dropout": 0.1, **_ADM}),
    "lsun_horse_nodropout": Recipe("guided_diffusion", {"size": 256, **_ADM}),
}
"""By the name of the published file, without its ending.

Left out: the upsamplers, which see a smaller image beside x_t; the classifiers; and the network of
512 pixels, whose finest level is narrower than what its time embedding is counted in.
"""
