"""Networks of every size: the tree of modules that EDM's constructors make fits our U-Net.

The files that are compared number by number are small. Here the two constructors are written down
as their paper has them (Karras et al. 2022, Appendix F), with tensors that take no
memory, and each tensor must find a place of its shape.
"""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoreflow.interop.edm import reader
from scoreflow.interop.edm.records import Record
from scoreflow.models.unet import UNet


def tensor(*shape: int) -> Tensor:
    """One zero, seen as many."""
    return torch.zeros(1).expand(shape)


def module(class_name: str, tensors: dict | None = None, inside: dict | None = None, **own):
    state = {"_parameters": tensors or {}, "_buffers": {}, "_modules": inside or {}, **own}
    return Record(class_name, state)


def dense(inputs: int, outputs: int, bias: bool = True) -> Record:
    weight = {"weight": tensor(outputs, inputs)}
    return module("Linear", weight | ({"bias": tensor(outputs)} if bias else {}))


def convolution(inputs: int, outputs: int, size: int = 3) -> Record:
    weight = {"weight": tensor(outputs, inputs, size, size), "bias": tensor(outputs)}
    return module("Conv2d", weight if size else {})


def norm(channels: int, eps: float) -> Record:
    weight = {"weight": tensor(channels), "bias": tensor(channels)}
    return module("GroupNorm", weight, num_groups=min(32, channels // 4), eps=eps)


class Builder:
    """One of the two networks, as its constructor makes it."""

    def __init__(self, song: bool, **told) -> None:
        self.song, self.told = song, told
        self.width, self.eps = told["model_channels"], 1e-6 if song else 1e-5
        self.sides = [told["img_resolution"] >> k for k in range(len(told["channel_mult"]))]
        self.enc: dict[str, Record] = {}
        self.dec: dict[str, Record] = {}
        self.skips: list[int] = []

    def block(self, inputs: int, outputs: int, attention: bool, resizes: bool = False) -> Record:
        heads = (1 if self.song else outputs // 64) if attention else 0
        inside = {
            "norm0": norm(inputs, self.eps),
            "conv0": convolution(inputs, outputs),
            "affine": dense(4 * self.width, outputs * (1 if self.song else 2)),
            "norm1": norm(outputs, self.eps),
            "conv1": convolution(outputs, outputs),
        }
        if inputs != outputs or resizes:
            inside["skip"] = convolution(inputs, outputs, 1 if self.song or not resizes else 0)
        if heads:
            inside |= {
                "norm2": norm(outputs, self.eps),
                "qkv": convolution(outputs, 3 * outputs, 1),
                "proj": convolution(outputs, outputs, 1),
            }
        own = {"num_heads": heads, "skip_scale": math.sqrt(0.5) if self.song else 1}
        own |= {"adaptive_scale": not self.song, "out_channels": outputs}
        return module("UNetBlock", inside=inside, **own)

    def way_down(self) -> None:
        multipliers, blocks = self.told["channel_mult"], self.told["num_blocks"]
        images = self.told["in_channels"]
        at = self.width if self.song else self.width * multipliers[0]
        for side, multiplier in zip(self.sides, multipliers, strict=True):
            if side == self.sides[0]:
                self.enc[f"{side}x{side}_conv"] = convolution(images, at)
            else:
                self.enc[f"{side}x{side}_down"] = self.block(at, at, False, True)
                if self.told.get("encoder_type") == "residual":
                    self.enc[f"{side}x{side}_aux_residual"] = convolution(images, at)
                    images = at
            self.skips.append(at)
            for k in range(blocks):
                attends = side in self.told["attn_resolutions"]
                self.enc[f"{side}x{side}_block{k}"] = self.block(
                    at, self.width * multiplier, attends
                )
                at = self.width * multiplier
                self.skips.append(at)

    def way_up(self) -> int:
        blocks, at = self.told["num_blocks"], self.skips[-1]
        for side, multiplier in reversed(
            list(zip(self.sides, self.told["channel_mult"], strict=True))
        ):
            if side == self.sides[-1]:
                self.dec[f"{side}x{side}_in0"] = self.block(at, at, True)
                self.dec[f"{side}x{side}_in1"] = self.block(at, at, False)
            else:
                self.dec[f"{side}x{side}_up"] = self.block(at, at, False, True)
            for k in range(blocks + 1):
                attends = side in self.told["attn_resolutions"]
                attends &= k == blocks or not self.song
                inputs, at = at + self.skips.pop(), self.width * multiplier
                self.dec[f"{side}x{side}_block{k}"] = self.block(inputs, at, attends)
        return at

    def network(self) -> Record:
        fourier = self.told.get("embedding_type") == "fourier"
        noise = self.width * (2 if fourier else 1)
        self.way_down()
        at = self.way_up()
        head = {"norm": norm(at, self.eps), "conv": convolution(at, self.told["out_channels"])}
        sinusoids = module("PositionalEmbedding", max_positions=10000, endpoint=self.song)
        if fourier:
            sinusoids = module("FourierEmbedding")
            sinusoids.state["_buffers"]["freqs"] = tensor(noise // 2)
        inside = {
            "map_noise": sinusoids,
            "map_layer0": dense(noise, 4 * self.width),
            "map_layer1": dense(4 * self.width, 4 * self.width),
        }
        if classes := self.told["label_dim"]:
            to = noise if self.song else 4 * self.width
            inside["map_label"] = dense(classes, to, bias=self.song)
        if self.song:
            side = self.sides[0]
            self.dec |= {f"{side}x{side}_aux_{name}": each for name, each in head.items()}
        else:
            inside |= {f"out_{name}": each for name, each in head.items()}
        inside |= {"enc": module("ModuleDict", inside=self.enc)}
        inside |= {"dec": module("ModuleDict", inside=self.dec)}
        kind = "SongUNet" if self.song else "DhariwalUNet"
        return module(kind, inside=inside, _init_args=(), _init_kwargs=self.told)


def read(song: bool, monkeypatch, **told):
    network = Builder(song, in_channels=3, out_channels=3, **told).network()
    own = {"sigma_min": 0, "sigma_max": math.inf, "sigma_data": 0.5}
    held = {"ema": module("EDMPrecond", inside={"model": network}, **own)}
    monkeypatch.setattr(reader, "load_network", lambda path: held)
    return reader.read(Path("network-snapshot-000001.pkl"), {})


def shapes_of_ours(settings: dict) -> dict[str, torch.Size]:
    """The state dict of our U-Net under these settings, without its numbers."""
    named = {
        key.removeprefix("model."): value
        for key, value in settings.items()
        if key.startswith("model.")
    }
    channels, size, _ = named.pop("shape")
    aside = ("name", "conditional", "prediction", "label", "label_scale", "label_offset")
    named = {key: value for key, value in named.items() if key not in (*aside, "data_std")}
    with torch.device("meta"):
        network = UNet(image_size=size, in_channels=channels, out_channels=channels, **named)
    return {name: each.shape for name, each in network.state_dict().items()}


PUBLISHED = [
    # With their millions of parameters: CIFAR-10 (DDPM++, NCSN++) and ImageNet 64 x 64 (ADM).
    (True, 55.7, {"img_resolution": 32, "model_channels": 128, "channel_mult": [2, 2, 2]}),
    (True, 55.7, {"img_resolution": 32, "model_channels": 128, "channel_mult": [2, 2, 2]}),
    (False, 295.9, {"img_resolution": 64, "model_channels": 192, "channel_mult": [1, 2, 3, 4]}),
]
REST = [
    {"num_blocks": 4, "attn_resolutions": [16], "label_dim": 0},
    {
        "num_blocks": 4,
        "attn_resolutions": [16],
        "label_dim": 10,
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
    },
    {"num_blocks": 3, "attn_resolutions": [32, 16, 8], "label_dim": 1000},
]


@pytest.mark.parametrize("k", range(3))
def test_the_published_networks_have_a_place_for_every_tensor(k, monkeypatch):
    song, millions, sizes = PUBLISHED[k]
    found = read(song, monkeypatch, **sizes, **REST[k])
    ours = shapes_of_ours(found.settings)
    assert {name: each.shape for name, each in found.weights.items()} == ours
    count = sum(shape.numel() for shape in ours.values()) / 1e6
    assert count == pytest.approx(millions, rel=0.02)
    if not song:
        assert found.settings["model.head_channels"] == 64


def drawn(seed: int) -> Iterator[tuple[bool, dict]]:
    draw = random.Random(seed)
    for _ in range(12):
        song, levels = draw.random() < 0.5, draw.randint(1, 4)
        sides = [64 >> k for k in range(levels)]
        fourier, residual = draw.random() < 0.5, draw.random() < 0.5
        told = {
            "img_resolution": 64,
            "model_channels": draw.choice([64, 128]),
            "channel_mult": [draw.randint(1, 3) for _ in range(levels)],
            "num_blocks": draw.randint(1, 3),
            "attn_resolutions": draw.sample(sides, draw.randint(0, levels)),
            "label_dim": draw.choice([0, 1, 7]),
        }
        if song:
            told |= {
                "embedding_type": "fourier" if fourier else "positional",
                "channel_mult_noise": 2 if fourier else 1,
                "encoder_type": "residual" if residual else "standard",
                "resample_filter": [1, 3, 3, 1] if residual else [1, 1],
            }
        yield song, told


@pytest.mark.parametrize("seed", range(4))
def test_networks_of_any_size_have_a_place_for_every_tensor(seed, monkeypatch):
    for song, told in drawn(seed):
        found = read(song, monkeypatch, **told)
        there = {name: each.shape for name, each in found.weights.items()}
        assert there == shapes_of_ours(found.settings), told
