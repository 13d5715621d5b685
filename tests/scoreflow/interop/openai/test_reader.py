"""OpenAI's files: what is read off their shapes, published recipes, and refusals."""

import pytest
import torch

from scoreflow.errors import RequestError
from scoreflow.interop import formats
from scoreflow.interop.openai.reader import ASKED
from scoreflow.interop.openai.recipes import RECIPES
from scoreflow.interop.openai.shapes import shape_of
from scoreflow.interop.tensor_files import read_tensors


def saved(tensors, path):
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", ["cifar10_like", "adm_legacy_order", "adm_new_order"])
def test_the_architecture_is_read_off_the_shapes(golden, name):
    found = golden(name)
    told = found.about["constructor"]["UNetModel"]
    shape = shape_of(read_tensors(found.path), found.path)
    assert shape.channels == told["model_channels"]
    assert shape.multipliers == tuple(told["channel_mult"])
    assert shape.blocks == told["num_res_blocks"]
    assert [2**level for level in shape.attends] == told["attention_resolutions"]
    assert shape.classes == told.get("num_classes", 0)
    assert shape.scale_shift == told["use_scale_shift_norm"]
    assert shape.residual_resampling == told.get("resblock_updown", False)
    assert shape.learned_variance == (told["out_channels"] == 2 * told["in_channels"])


def plain_network(levels, blocks, attends, channels=8):
    """The tensors of improved-diffusion's network without scale-shift, as its code names them."""
    tensors, widths = {}, [channels * 2 ** min(level, 1) for level in range(levels)]

    def layer(name, *shape):
        tensors[f"{name}.weight"] = torch.zeros(shape)
        tensors[f"{name}.bias"] = torch.zeros(shape[0])

    def residual(name, inputs, outputs):
        layer(f"{name}.in_layers.0", inputs)
        layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        layer(f"{name}.emb_layers.1", outputs, 4 * channels)
        layer(f"{name}.out_layers.0", outputs)
        layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def attention(name, width):
        layer(f"{name}.norm", width)
        layer(f"{name}.qkv", 3 * width, width, 1)
        layer(f"{name}.proj_out", width, width, 1)

    layer("time_embed.0", 4 * channels, channels)
    layer("time_embed.2", 4 * channels, 4 * channels)
    layer("input_blocks.0.0", channels, 3, 3, 3)
    k, skips = 1, [channels]
    for level, width in enumerate(widths):
        for _ in range(blocks):
            residual(f"input_blocks.{k}.0", skips[-1], width)
            if level in attends:
                attention(f"input_blocks.{k}.1", width)
            skips.append(width)
            k += 1
        if level < levels - 1:
            layer(f"input_blocks.{k}.0.op", width, width, 3, 3)
            skips.append(width)
            k += 1
    residual("middle_block.0", widths[-1], widths[-1])
    attention("middle_block.1", widths[-1])
    residual("middle_block.2", widths[-1], widths[-1])
    k, h = 0, widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        for block in range(blocks + 1):
            residual(f"output_blocks.{k}.0", h + skips.pop(), width)
            h, child = width, 1
            if level in attends:
                attention(f"output_blocks.{k}.1", width)
                child = 2
            if level and block == blocks:
                layer(f"output_blocks.{k}.{child}.conv", width, width, 3, 3)
            k += 1
    layer("out.0", widths[0])
    layer("out.2", 3, widths[0], 3, 3)
    return tensors


@pytest.mark.parametrize(
    ("levels", "blocks", "attends"), [(1, 1, ()), (1, 2, (0,)), (2, 3, (1,)), (4, 3, (1, 2))]
)
def test_any_depth_fits_our_network(golden_of, tmp_path, levels, blocks, attends):
    path = saved(plain_network(levels, blocks, attends), tmp_path / "model000100.pt")
    options = {"size": 16, "heads": 2, "schedule": "linear", "steps": 100, "norm_groups": 4}
    found = golden_of(path, "improved_diffusion", options)
    found.model()  # every name and shape alike
    settings = found.imported.settings
    assert settings["model.blocks"] == blocks
    assert len(settings["model.multipliers"]) == levels
    assert settings["model.attention_sizes"] == tuple(16 >> level for level in attends)
    assert not settings["model.scale_shift"]
    assert not settings["model.learned_variance"]
    assert settings["model.label_scale"] == 10  # improved-diffusion's rescales to 1000
    assert found.imported.step == 100
    assert found.imported.facts["weights"].startswith("raw")


def test_a_recipe_answers_every_question():
    required = {each.name for each in ASKED if each.default is None}
    for name, recipe in RECIPES.items():
        assert recipe.format in formats.FORMATS, name
        assert required <= recipe.options.keys(), name
        assert ("heads" in recipe.options) != ("head_channels" in recipe.options), name
        for each in ASKED:
            if each.name in recipe.options:
                each.accept(recipe.options[each.name])


def test_a_recipe_and_changes_of_it(tmp_path):
    path = saved(plain_network(4, 3, (1, 2)), tmp_path / "cifar10_uncond_50M_500K.pt")
    found = formats.read(path, "", "cifar10_uncond_50M_500K", {"norm_groups": 4})
    assert found.format == "improved_diffusion"
    assert found.settings["sde.num_steps"] == 4000
    assert found.settings["model.attention_sizes"] == (16, 8)
    assert found.settings["model.label_scale"] == 0.25
    assert found.settings["model.num_groups"] == 4
    with pytest.raises(RequestError, match="did you mean 'cifar10_uncond_50M_500K'"):
        formats.read(path, "", "cifar10_uncond_50M")


def test_which_of_the_two_codebases_is_asked_where_files_look_alike(golden):
    with pytest.raises(RequestError, match="improved_diffusion or guided_diffusion, whose files"):
        formats.recognise(golden("cifar10_like").path)
    assert formats.recognise(golden("adm_new_order").path) == "guided_diffusion"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "size, side of its images in pixels; schedule"),
        ({"size": 8, "schedule": "linear", "steps": 10}, "how attention is cut into heads"),
        ({"size": 8, "schedule": "linear", "steps": 10, "heads": 3}, "cannot have 3 heads"),
        ({"size": 8, "schedule": "sigmoid", "steps": 10, "heads": 1}, "one of linear, cosine"),
        ({"size": 8, "schedule": "linear", "steps": 0, "heads": 1}, "number above 0 (steps"),
        ({"size": "8px", "schedule": "linear", "steps": 1, "heads": 1}, "a whole number"),
        ({"sizes": 8}, "no option 'sizes'; did you mean 'size'"),
        ({"size": 8, "schedule": "linear", "steps": 10, "heads": True}, "heads must be a whole"),
    ],
)
def test_options_are_checked(golden, options, told):
    with pytest.raises(RequestError) as refusal:
        formats.read(golden("cifar10_like").path, "improved_diffusion", "", options)
    assert told in str(refusal.value)


def test_other_networks_are_refused(tmp_path):
    told = {"size": 16, "heads": 1, "schedule": "linear", "steps": 10}
    tensors = plain_network(2, 1, ())
    tensors["input_blocks.0.0.weight"] = torch.zeros(8, 6, 3, 3)
    for change, message in (
        (tensors, "an upsampler cannot be read"),
        (plain_network(2, 1, ()) | {"head.weight": torch.zeros(1)}, "no tensor 'head.weight'"),
        (
            plain_network(2, 1, ()) | {"time_embed.0.weight": torch.zeros(64, 16)},
            "as the network of 512 pixels",
        ),
        ({**plain_network(2, 1, ()), "step": 3}, "tensors alone by name, but 'step' is a int"),
    ):
        path = saved(change, tmp_path / "model.pt")
        with pytest.raises(RequestError) as refusal:
            formats.read(path, "guided_diffusion", "", told)
        assert message in str(refusal.value)


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_an_upsampler_is_refused_with_a_learned_variance_too(tmp_path):
    # guided-diffusion's sr networks see (x_t, the smaller image), and answer with (eps, variance)
    tensors = plain_network(2, 1, ())
    tensors["input_blocks.0.0.weight"] = torch.zeros(8, 6, 3, 3)
    tensors["out.2.weight"], tensors["out.2.bias"] = torch.zeros(6, 8, 3, 3), torch.zeros(6)
    path = saved(tensors, tmp_path / "64_256_upsampler.pt")
    told = {"size": 16, "heads": 1, "schedule": "linear", "steps": 10}
    for as_ in ("guided_diffusion", "improved_diffusion", ""):
        with pytest.raises(RequestError, match="got 6: an upsampler cannot be read"):
            formats.read(path, as_, "", told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"output_blocks.foo.weight": torch.zeros(1)}, "got output_blocks.foo.weig"),
        (lambda t: t | {"input_blocks.0.weight": torch.zeros(1)}, "got input_blocks.0.weight"),
        (
            lambda t: without(t, "middle_block.0.emb_layers.1.weight"),
            "middle_block.0.emb_layers.1.weight is missing",
        ),
        (lambda t: without(t, "out.2.weight"), "out.2.weight is missing"),
        (
            lambda t: t | {"input_blocks.0.0.weight": torch.zeros(8)},
            "must have 4 dimensions, none of them 0, got (8,)",
        ),
        (
            lambda t: t | {"input_blocks.1.0.in_layers.2.weight": torch.tensor(1.0)},
            "must have 4 dimensions, none of them 0, got ()",
        ),
        (
            lambda t: t | {"middle_block.1.qkv.weight": torch.zeros(3, 16, 3)},
            "the matrix of a dense layer, got the shape (3, 16, 3)",
        ),
        (lambda t: t | {"middle_block.1.qkv.bias": torch.tensor(1.0)}, "rows of queries, keys"),
        (
            lambda t: t | {"input_blocks.1.4.in_layers.2.weight": torch.zeros(8, 8, 3, 3)},
            "two tensors are down.0.blocks.0.residual.conv_1.weight",
        ),
        (lambda t: t | {"out.0.bias": torch.zeros(8, dtype=torch.int8)}, "a tensor of int8"),
        (lambda t: {**t, 3: torch.zeros(1)}, "it has a int for a name"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(tmp_path, change, message):
    path = saved(change(plain_network(2, 1, ())), tmp_path / "model.pt")
    told = {"size": 16, "heads": 1, "schedule": "linear", "steps": 10}
    with pytest.raises(RequestError) as refusal:
        formats.read(path, "guided_diffusion", "", told)
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()
