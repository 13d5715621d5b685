"""The U-Net's switches: random networks of diffusers with the same weights, and their formulas."""

import math
import random
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scoreflow.models.layers import convolution, dense, doubled, filtered, group_norm, halved
from scoreflow.models.time_embedding import FOURIER_SCALE, IndexEmbedding
from scoreflow.models.unet import UNet
from scoreflow.models.unet_blocks import Attention, ResidualBlock, Style

SMALL = {
    "image_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention_sizes": (4,),
    "num_groups": 4,
}


def randomise(network, seed=0):
    """Weights that keep the signal's size, so that each layer matters, also the zero-ish ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        size = 2.0 if re.search(r"to_[qk]\.", name) else 0.7  # what attends must choose
        parameter.data.normal_(0, size * fan**-0.5, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.data.add_(1.0)
    return network


def relative_error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# --- Random networks of diffusers ----------------------------------------------------------------


def drawn(seed):
    """A network's arguments, each switch on about every other time."""
    of = random.Random(seed)
    levels = of.choice((1, 2, 3))
    size = of.choice((8, 16))
    attends = [of.random() < 0.5 for _ in range(levels)]
    return {
        "image_size": of.choice((size, (size, 2 * size), (2 * size, size))),
        "in_channels": of.choice((1, 3)),
        "out_channels": of.choice((1, 3)),
        "channels": 16,
        "multipliers": tuple(of.choice((1, 2, 3)) for _ in range(levels)),
        "blocks": of.choice((1, 2)),
        "attends": attends,
        "num_groups": of.choice((2, 4, 8)),
        "norm_eps": of.choice((1e-6, 1e-2)),
        "embedding_order": of.choice(("sin_cos", "cos_sin")),
        "frequency_shift": of.choice((0, 1)),
        "padding": of.choice(("bottom_right", "symmetric")),
        "head_channels": of.choice((0, 4, 8)),
        "scale_shift": of.random() < 0.5,
        "resample": of.choice(("conv", "conv", "residual")),
        "attention_middle": of.random() < 0.7,
        "num_classes": of.choice((0, 5)),
    }


def theirs(c):
    """The same network as a UNet2DModel."""
    from diffusers import UNet2DModel

    residual = c["resample"] == "residual"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else (
        "DownBlock2D", "UpBlock2D")  # fmt: skip
    attending = ("AttnDownBlock2D", "AttnUpBlock2D")
    kinds = [attending if attend else plain for attend in c["attends"]]
    return UNet2DModel(
        sample_size=c["image_size"],
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        block_out_channels=[c["channels"] * m for m in c["multipliers"]],
        layers_per_block=c["blocks"],
        down_block_types=tuple(kind[0] for kind in kinds),
        up_block_types=tuple(kind[1] for kind in reversed(kinds)),
        downsample_padding=0 if c["padding"] == "bottom_right" else 1,
        downsample_type="resnet" if residual else "conv",
        upsample_type="resnet" if residual else "conv",
        flip_sin_to_cos=c["embedding_order"] == "cos_sin",
        freq_shift=c["frequency_shift"],
        norm_eps=c["norm_eps"],
        norm_num_groups=c["num_groups"],
        attn_norm_num_groups=c["num_groups"],  # or its middle has none with scale and shift
        attention_head_dim=c["head_channels"] or None,
        resnet_time_scale_shift="scale_shift" if c["scale_shift"] else "default",
        add_attention=c["attention_middle"],
        num_class_embeds=c["num_classes"] or None,
    ).eval()


def ours(c, **changed):
    given = {key: value for key, value in {**c, **changed}.items() if key != "attends"}
    largest = max(torch.tensor(c["image_size"]).flatten().tolist())
    sizes = tuple(largest >> k for k, attend in enumerate(c["attends"]) if attend)
    finest = c["multipliers"][0]  # whose channels are their stem's and their sinusoids'
    return UNet(
        attention_sizes=sizes,
        null_class=False,
        stem_multiplier=finest,
        embedding_channels=16 * finest,
        **given,
    ).eval()


def asked(c, seed):
    generator = torch.Generator().manual_seed(seed)
    size = c["image_size"]
    sides = (size, size) if isinstance(size, int) else size
    x = torch.randn(2, c["in_channels"], *sides, generator=generator)
    label = (torch.randint(5, (2,), generator=generator),) if c["num_classes"] else ()
    return x, torch.tensor([731.0, 41.37]), *label


def answers(seed, from_diffusers):
    """Arguments, the network under test, theirs, and what both are asked."""
    c = drawn(seed)
    reference = randomise(theirs(c), seed)
    network = ours(c)
    network.load_state_dict(from_diffusers(reference.state_dict()))
    return c, network, reference, asked(c, seed)


OTHERWISE = {
    "norm_eps": (1e-6, 1e-2),
    "embedding_order": ("sin_cos", "cos_sin"),
    "frequency_shift": (0, 1),
    "padding": ("bottom_right", "symmetric"),
    "head_channels": (0, 4, 8),
    "num_groups": (2, 4, 8),
}
"""Switches without weights of their own: a wrong one loads, and answers otherwise."""
SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_a_random_network_of_diffusers_answers_alike_and_no_wrong_switch_does(
    seed, from_diffusers
):
    c, network, reference, (x, index, *label) = answers(seed, from_diffusers)
    expected = reference(x, index, *label).sample
    assert expected.std() > 0.05
    assert relative_error(network(x, index, *label), expected) < 2e-5
    for name, values in OTHERWISE.items():
        idle = (name == "padding" and (c["resample"] != "conv" or len(c["multipliers"]) == 1)) or (
            name == "head_channels" and not (any(c["attends"]) or c["attention_middle"])
        )
        for value in set(values) - {c[name]}:
            wrong = ours(c, **{name: value})
            wrong.load_state_dict(network.state_dict())
            found = relative_error(wrong(x, index, *label), expected)
            assert (found < 2e-5) if idle else (found > 1e-4), (name, value)


def test_the_random_networks_have_every_switch_both_ways():
    every = [drawn(seed) for seed in SEEDS]
    for name in (*OTHERWISE, "scale_shift", "resample", "attention_middle", "num_classes"):
        assert len({c[name] for c in every}) >= 2, name
    assert any(isinstance(c["image_size"], tuple) for c in every)
    assert any(c["resample"] == "residual" and any(c["attends"][:-1]) for c in every)


@torch.no_grad()
def test_scale_and_shift_are_not_exchanged_nor_the_rows_of_heads(from_diffusers):
    found = {"scale_shift": True, "head_channels": 4, "attends": [True, True]}
    c = drawn(0) | found | {"multipliers": (1, 2), "resample": "conv", "num_classes": 0}
    reference = randomise(theirs(c), 3)
    network = ours(c)
    network.load_state_dict(from_diffusers(reference.state_dict()))
    x, index = asked(c, 3)
    expected = reference(x, index).sample
    assert relative_error(network(x, index), expected) < 2e-5
    right = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def exchanged(name, tensor):
        return torch.cat(tensor.chunk(2)[::-1]) if ".dense." in name else tensor

    def head_major(name, tensor):
        if ".qkv." not in name:
            return tensor
        return tensor.unflatten(0, (3, -1, 4)).transpose(0, 1).flatten(0, 2)

    for wrong in (exchanged, head_major):
        network.load_state_dict({name: wrong(name, tensor) for name, tensor in right.items()})
        assert relative_error(network(x, index), expected) > 0.01


@torch.no_grad()
def test_fourier_features_are_diffusers(from_diffusers):
    """Its network takes the logarithm of its timestep, and divides its output by it."""
    from diffusers import UNet2DModel

    reference = randomise(UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16),
        layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), downsample_padding=0, norm_eps=1e-6,
        norm_num_groups=4, attention_head_dim=None, time_embedding_type="fourier",
    ).eval())  # fmt: skip
    network = UNet(**SMALL, time_embedding="fourier").eval()
    network.load_state_dict(from_diffusers({
        name: tensor for name, tensor in reference.state_dict().items() if name != "time_proj.W"
    }))  # fmt: skip
    x, sigma = torch.randn(2, 2, 8, 8), torch.tensor([0.3, 40.0])
    expected = reference(x, sigma).sample * sigma[:, None, None, None]
    assert relative_error(network(x, sigma.log()), expected) < 2e-5
    assert relative_error(network(x, sigma), expected) > 1e-3


# --- Formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(2, 2), (4, 6), (8, 8)])
def test_the_filter_is_the_published_kernel_with_zeros_around(sides):
    x = torch.randn(2, 3, *sides, dtype=torch.float64)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    torch.testing.assert_close(halved(x, True), F.conv2d(x, kernel, None, 2, 1, groups=3))
    up = F.conv_transpose2d(x, 4 * kernel, None, 2, 1, groups=3)
    torch.testing.assert_close(doubled(x, True), up)
    torch.testing.assert_close(filtered(x), F.conv2d(x, kernel, None, 1, 2, groups=3))
    torch.testing.assert_close(halved(x, False), F.avg_pool2d(x, 2))
    torch.testing.assert_close(
        doubled(x, False), x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )


def test_groups_of_a_norm():
    assert [group_norm(c, 32, 4).num_groups for c in (8, 64, 128, 512)] == [2, 16, 32, 32]
    assert group_norm(8, 4).num_groups == 4
    for channels, groups, least in ((6, 4, 0), (2, 32, 4), (9, 32, 4)):
        with pytest.raises(ValueError, match=f"multiple of the groups .* got {channels} in"):
            group_norm(channels, groups, least)


@pytest.mark.parametrize("rescaled", [False, True])
@torch.no_grad()
def test_a_rescaled_sum_is_over_the_root_of_two(rescaled):
    style = Style(2, rescaled=rescaled)
    by = math.sqrt(2) if rescaled else 1.0
    h, embedding = torch.randn(2, 4, 6, 6), torch.randn(2, 8)
    block = randomise(ResidualBlock(4, 4, 8, 0.0, style))
    branch = F.conv2d(F.silu(block.norm_1(h)), block.conv_1.weight, block.conv_1.bias, padding=1)
    branch = block.norm_2(branch + block.dense(embedding)[:, :, None, None])
    torch.testing.assert_close(block(h, embedding), (h + block.conv_2(F.silu(branch))) / by)
    attention = randomise(Attention(4, style))
    q, k, v = attention.qkv(attention.norm(h)).flatten(2).chunk(3, dim=1)
    mixed = v @ (q.transpose(1, 2) @ k / 2).softmax(-1).transpose(1, 2)
    expected = (h + attention.proj(mixed.unflatten(2, (6, 6)))) / by
    torch.testing.assert_close(attention(h), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("resize", [halved, doubled])
@torch.no_grad()
def test_a_block_resizes_before_its_first_convolution_and_in_its_shortcut(resize, weighted):
    def size(h):
        return resize(h, True)

    block = randomise(ResidualBlock(4, 4, 8, 0.0, Style(2), resize=size, weighted=weighted))
    h, embedding = torch.randn(2, 4, 6, 6), torch.randn(2, 8)
    branch = block.conv_1(size(F.silu(block.norm_1(h)))) + block.dense(embedding)[:, :, None, None]
    branch = block.conv_2(F.silu(block.norm_2(branch)))
    carried = block.shortcut(size(h)) if weighted else size(h)
    torch.testing.assert_close(block(h, embedding), carried + branch)
    assert isinstance(block.shortcut, nn.Conv2d) is weighted


@torch.no_grad()
def test_fourier_features_are_sines_and_cosines_of_whole_turns():
    torch.manual_seed(0)
    embedding = IndexEmbedding(2000, 4, fourier=True)
    assert embedding.frequencies.std() == pytest.approx(FOURIER_SCALE, rel=0.1)
    label = torch.tensor([-1.3, 0.25])
    angles = 2 * math.pi * label[:, None].double() * embedding.frequencies.double()
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    assert (embedding._sinusoids(label) - expected).abs().max() < 2e-4  # of up to 400 radians
    exact = embedding.double()._sinusoids(label.double())
    assert (exact - torch.cat([angles.sin(), angles.cos()], dim=1)).abs().max() < 1e-5
    assert "frequencies" in embedding.state_dict()
    assert all(parameter is not embedding.frequencies for parameter in embedding.parameters())


@torch.no_grad()
def test_a_class_before_the_dense_layers_is_added_to_the_sinusoids():
    embedding = randomise(IndexEmbedding(8, 6, 3, before=True))
    index, label = torch.tensor([3.0, 700.0, 0.5]), torch.tensor([2, -1, 0])
    h = embedding._sinusoids(index) + embedding.classes.weight[label + 1]
    expected = F.silu(embedding.outer(F.silu(embedding.inner(h))))
    torch.testing.assert_close(embedding(index, label), expected)
    torch.testing.assert_close(embedding(index)[1], expected[1])


def test_without_a_row_for_no_class_every_label_must_be_one():
    network = UNet(**SMALL, num_classes=3, null_class=False).eval()
    x, index = torch.zeros(2, 2, 8, 8), torch.zeros(2)
    assert network.embedding.classes.weight.shape[0] == 3
    network(x, index, torch.tensor([0, 2]))
    for wrong in (None, torch.tensor([0, -1]), torch.tensor([3, 0])):
        with pytest.raises(ValueError, match="has no row for no class"):
            network(x, index, wrong)


@pytest.mark.parametrize("resample", ["conv", "residual", "residual_conv"])
def test_dropout_is_in_the_blocks_that_resize_too(resample):
    network = UNet(**SMALL, resample=resample, dropout=0.5)
    blocks = sum(isinstance(module, ResidualBlock) for module in network.modules())
    assert network.dropout_places == blocks == (8 if resample == "conv" else 10)
    x, index = torch.randn(3, 2, 8, 8), torch.tensor([3.0, 700.0, 0.0])
    words = torch.randint(2**32, (3, network.dropout_places, 2))
    network = randomise(network).double()
    whole = network(x.double(), index.double(), words=words)
    for place in range(network.dropout_places):
        other = words.clone()
        other[:, place] = torch.randint(2**32, (3, 2))
        assert (network(x.double(), index.double(), words=other) - whole).abs().max() > 1e-6
    part = network(x[[2, 0]].double(), index[[2, 0]].double(), words=words[[2, 0]])
    torch.testing.assert_close(part, whole[[2, 0]], rtol=1e-12, atol=1e-12)


EVERY_SWITCH = {
    "norm_eps": 1e-5, "channels_per_group": 4, "heads": 2, "attention_up": "last",
    "scale_shift": True, "rescaled_skips": True, "resample": "residual_conv", "fir": True,
    "input_pyramid": True, "stem_multiplier": 2, "embedding_channels": 12,
    "time_embedding": "fourier", "embedding_order": "cos_sin", "class_embedding": "before",
    "num_classes": 3, "dropout": 0.0,
}  # fmt: skip


def test_with_every_switch_it_compiles_whole_recomputes_and_keeps_channels_last():
    network = randomise(UNet(**SMALL, **EVERY_SWITCH))
    x, index, label = torch.randn(2, 2, 8, 8), torch.tensor([0.3, -2.0]), torch.tensor([2, -1])
    expected = network(x, index, label)
    last = network.to(memory_format=torch.channels_last)
    found = last(x.contiguous(memory_format=torch.channels_last), index, label)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found, expected) < 1e-5
    exported = torch.export.export(network.eval(), (x, index, label), strict=False).module()
    assert relative_error(exported(x, index, label), expected) < 1e-5
    again = UNet(**SMALL, **EVERY_SWITCH, recompute=True)
    again.load_state_dict(network.state_dict())
    gradients = []
    for each in (network.train(), again.train()):
        each.zero_grad()
        each(x, index, label).square().sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_levels_of_an_oblong_image_are_named_by_the_larger_side():
    oblong = SMALL | {"image_size": (8, 16), "attention_sizes": (8,)}
    network = randomise(UNet(**oblong)).eval()
    assert network.x_shape == (2, 8, 16)
    assert [isinstance(level.blocks[0].attention, Attention) for level in network.down] == [
        False, True,
    ]  # fmt: skip
    x, index = torch.randn(2, 2, 8, 16), torch.tensor([3.0, 700.0])
    lying = randomise(UNet(**oblong | {"image_size": (16, 8)})).eval()
    turned = {
        name: w.transpose(2, 3) if w.ndim == 4 else w for name, w in network.state_dict().items()
    }
    for level in (*lying.down, *lying.up):  # zeros below and to the right stay so when turned
        assert level.resize is None or len(level.resize) == 2
    lying.load_state_dict(turned)
    found = lying(x.transpose(2, 3), index).transpose(2, 3)
    assert relative_error(found, network(x, index)) < 1e-5
    with pytest.raises(ValueError, match=r"multiple of 2\^\(levels - 1\) = 2.* got \(8, 9\)"):
        UNet(**oblong | {"image_size": (8, 9)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": "top"}, "padding must be one of bottom_right, symmetric, got 'top'"),
        ({"attention_up": "first"}, "attention_up must be one of each, last"),
        ({"fir": True}, "fir needs resample = residual"),
        ({"heads": 3}, "multiple of its heads .* got 16 for 3"),
        ({"head_channels": 12}, "multiple of its heads .* got 16 for 12"),
        ({"channels_per_group": 3, "channels": 10}, "multiple of the groups"),
        ({"embedding_channels": 3}, "even number of sinusoids"),
    ],
)
def test_impossible_switches_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UNet(**SMALL | change)


# --- The default's bits --------------------------------------------------------------------------


def test_the_default_draws_its_weights_in_the_order_that_it_always_had():
    """Embedding, stem, per level its resizing and then its blocks, middle, way up, head."""
    torch.manual_seed(5)
    network = UNet(**SMALL, num_classes=3)
    torch.manual_seed(5)
    drawn_again = {}

    def draw(name):
        if f"{name}.weight" not in network.state_dict():
            return
        shape = network.get_parameter(f"{name}.weight").shape
        scale = 1e-10 if name.endswith(("conv_2", "proj")) or name == "head.2" else 1.0
        scale = 2.0 if name.endswith("qkv") else scale
        layer = (
            dense(shape[1], shape[0], scale)
            if len(shape) == 2
            else convolution(shape[1], shape[0], shape[2], scale=scale)
        )
        drawn_again[f"{name}.weight"] = layer.weight

    def block(place):
        for layer in ("conv_1", "dense", "conv_2", "shortcut"):
            draw(f"{place}.residual.{layer}")
        for layer in ("qkv", "proj"):
            draw(f"{place}.attention.{layer}")

    draw("embedding.inner")
    draw("embedding.outer")
    drawn_again["embedding.classes.weight"] = nn.Embedding(4, 32).weight
    draw("stem")
    for way, blocks in (("down", 1), ("up", 2)):
        for level in range(2):
            draw(f"{way}.{level}.resize.1")
            for k in range(blocks):
                block(f"{way}.{level}.blocks.{k}")
        if way == "down":
            block("middle.0")
            block("middle.1")
    draw("head.2")
    weights = {
        k: v for k, v in network.state_dict().items() if "norm" not in k and "bias" not in k
    }
    weights.pop("head.0.weight")
    assert weights.keys() == drawn_again.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, drawn_again[name]), name
