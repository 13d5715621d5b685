"""diffusers' folders: random configurations against the library, old layouts, and refusals."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from scoreflow.errors import RequestError
from scoreflow.interop import formats
from scoreflow.interop.diffusers.reader import DEFAULTS
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten


def random_network(seed):
    """A UNet2DModel of random switches and weights that all matter, and its scheduler."""
    from diffusers import DDPMScheduler, UNet2DModel

    draw = random.Random(seed)
    attends = [draw.random() < 0.5 for _ in range(draw.choice([2, 3]))]
    widths = [8 * draw.choice([1, 2, 3]) for _ in attends]
    widths[0] = 8
    shift = draw.choice(["default", "scale_shift"])
    learned = draw.random() < 0.3
    classes = draw.choice([None, 3])
    channels = draw.choice([1, 3])
    network = UNet2DModel(
        sample_size=draw.choice([8, (8, 16), 16]),
        in_channels=channels,
        out_channels=channels * (1 + learned),
        block_out_channels=tuple(widths),
        layers_per_block=draw.choice([1, 2]),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        downsample_padding=draw.choice([0, 1]),
        flip_sin_to_cos=draw.choice([False, True]),
        freq_shift=draw.choice([0, 1]),
        norm_eps=draw.choice([1e-6, 1e-5]),
        norm_num_groups=draw.choice([2, 4]),
        attention_head_dim=draw.choice([None, 4, 8]),
        resnet_time_scale_shift=shift,
        add_attention=shift == "default" and draw.random() < 0.7,
        num_class_embeds=classes,
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.data.normal_(1.0, 0.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.normal_(0, module.weight[0].numel() ** -0.5, generator=generator)
    scheduler = DDPMScheduler(
        num_train_timesteps=draw.choice([100, 1000]),
        beta_schedule=draw.choice(["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]),
        prediction_type=draw.choice(["epsilon", "sample", "v_prediction"]),
        variance_type="learned_range" if learned else draw.choice(["fixed_small", "fixed_large"]),
        clip_sample=draw.choice([False, True]),
    )
    return network, scheduler


@pytest.fixture
def saved(tmp_path):
    """A pipeline's folder of a network and a scheduler."""

    def save(network, scheduler, **how):
        from diffusers import DDPMPipeline

        DDPMPipeline(network, scheduler).save_pretrained(tmp_path / "pipeline", **how)
        return tmp_path / "pipeline"

    return save


@pytest.mark.parametrize("seed", range(12))
def test_random_configurations_answer_as_the_library(saved, golden_of, seed):
    theirs, scheduler = random_network(seed)
    found = golden_of(saved(theirs, scheduler, safe_serialization=bool(seed % 2)))
    model, steps = found.model(), scheduler.config.num_train_timesteps
    classes, shape = model.num_classes, found.imported.settings["model.shape"]
    x, index = torch.randn(3, *shape), torch.tensor([0, 7, steps - 1])
    labels = torch.tensor([0, 2, 1]) if classes else None
    with torch.no_grad():
        expected = theirs(x, index, class_labels=labels).sample
        given = {} if labels is None else {"label": labels}
        ours = model.network(x, index.float(), **given)
        assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()
        # and the estimate that the library's scheduler makes of it, in its own float32 tables
        asked = model if labels is None else model.labelled(labels)
        estimate = asked(x.double(), index.double() + 1)
    for k, t in enumerate(index[:2]):
        answer = expected[k : k + 1]
        if scheduler.config.variance_type != "learned_range":
            answer = answer[:, : shape[0]]
        scheduler.config.clip_sample = False
        scheduler.register_to_config(clip_sample=False)
        x_0 = scheduler.step(answer, int(t), x[k : k + 1]).pred_original_sample
        torch.testing.assert_close(estimate.x_0[k : k + 1].float(), x_0, rtol=2e-3, atol=2e-4)
    settings = flatten(Config().to_dict()) | found.imported.settings
    assert Config.of_flat(settings, "here").sde.num_steps == steps


def test_the_defaults_are_the_library_s():
    from diffusers import UNet2DModel

    theirs = {k: v for k, v in UNet2DModel().config.items() if k[0] != "_"}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items()} == DEFAULTS


# ---- folders ------------------------------------------------------------------------------------


@pytest.fixture
def ddpm(golden, tmp_path):
    """A copy of the folder with DDPM's switches."""
    copy = tmp_path / "ddpm"
    shutil.copytree(golden("ddpm").path, copy)
    return copy


def edit(path, **keys):
    """Set keys of a JSON file; None removes one."""
    held = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({k: v for k, v in held.items() if v != "REMOVE"}))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_every_layout_gives_the_same_network(ddpm, tmp_path):
    whole = formats.read(ddpm)
    network = tmp_path / "at-the-root"
    shutil.copytree(ddpm / "unet", network)
    shutil.copy(ddpm / "scheduler" / "scheduler_config.json", network)
    for path in (network, ddpm / "unet"):
        assert formats.recognise(path) == "diffusers"
        found = formats.read(path)
        assert same(found.weights, whole.weights)
        assert found.settings == whole.settings
    shutil.rmtree(ddpm / "scheduler")
    with pytest.raises(RequestError, match="without which its noise schedule is unknown"):
        formats.read(ddpm)


def test_a_checkpoint_of_the_training_script_is_averaged_and_raw(golden, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(golden("train_unconditional").path, copy)
    checkpoint = copy / "checkpoint-500"
    shutil.copytree(copy / "unet", checkpoint / "unet_ema")
    edit(checkpoint / "unet_ema" / "config.json", decay=0.9999, power=0.75, inv_gamma=1.0,
         optimization_step=500, min_decay=0.0, update_after_step=0, use_ema_warmup=True,
    )  # fmt: skip
    pipeline, found = formats.read(copy), formats.read(checkpoint)
    assert found.step == 500
    assert same(found.weights, pipeline.weights)
    assert same(found.raw, pipeline.raw)
    assert not same(found.weights, found.raw)
    assert "averaged, and the raw ones of unet" in found.facts["weights"]


def test_half_precision_is_read_as_float32(ddpm):
    from safetensors.torch import load_file, save_file

    file = ddpm / "unet" / "diffusion_pytorch_model.safetensors"
    halved = {name: each.half() for name, each in load_file(file).items()}
    save_file(halved, file)
    found = formats.read(ddpm)
    assert {each.dtype for each in found.weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("file", "keys", "told"),
    [
        ("unet", {"_class_name": "UNet2DConditionModel"}, "must be UNet2DModel, got UNet2DCond"),
        ("unet", {"_class_name": "UNetModel"}, "take a later revision"),
        ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type must be positional"),
        ("unet", {"center_input_sample": True}, "center_input_sample must be False"),
        ("unet", {"mid_block_scale_factor": 1.41}, "mid_block_scale_factor must be 1"),
        ("unet", {"downsample_type": "resnet"}, "downsample_type must be conv"),
        ("unet", {"down_block_types": ["SkipDownBlock2D"] * 3}, "got SkipDownBlock2D"),
        ("unet", {"up_block_types": ["UpBlock2D"] * 3}, "mirror image"),
        ("unet", {"block_out_channels": [8, 12, 8]}, "whole multiples of the first"),
        ("unet", {"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups must be 4"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type must be None"),
        ("unet", {"encoder_hid_dim": 8}, "encoder_hid_dim is not known here, got 8"),
        ("unet", {"out_channels": 6}, "out_channels must be 3"),
        ("unet", {"sample_size": None}, "--set size=PIXELS"),
        ("scheduler", {"_class_name": "ScoreSdeVeScheduler"}, "of DDPM's chain"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "log-SNR is minus infinity"),
        ("scheduler", {"prediction_type": "flow_prediction"}, "prediction_type must be one of"),
        ("scheduler", {"variance_type": "learned"}, "variance_type must be one of"),
        ("scheduler", {"beta_schedule": "exp"}, "list its betas as trained_betas"),
        ("scheduler", {"clip_sample_range": 2.0}, "clip_sample_range must be 1"),
        ("scheduler", {"trained_betas": [0.1, 0.2]}, "must have num_train_timesteps = 1000"),
        ("scheduler", {"use_flow_sigmas": True}, "use_flow_sigmas is not known here"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_key_and_value(ddpm, file, keys, told):
    name = {"unet": "config.json", "scheduler": "scheduler_config.json"}[file]
    edit(ddpm / file / name, **keys)
    with pytest.raises(RequestError) as refusal:
        formats.read(ddpm)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_tensor_or_a_missing_one_is_refused(ddpm):
    from safetensors.torch import load_file, save_file

    file = ddpm / "unet" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    save_file(whole | {"controlnet.weight": torch.zeros(2)}, file)
    with pytest.raises(RequestError, match=r"no tensor 'controlnet\.weight'"):
        formats.read(ddpm)
    save_file({k: v for k, v in whole.items() if "attentions.0.to_k.weight" not in k}, file)
    with pytest.raises(RequestError, match="is missing: the file is not whole"):
        formats.read(ddpm)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RequestError, match="no whole file of safetensors"):
        formats.read(ddpm)
    file.unlink()
    with pytest.raises(RequestError, match="has none of diffusion_pytorch_model"):
        formats.read(ddpm)


def test_an_older_scheduler_s_timesteps_are_its_steps(ddpm):
    edit(
        ddpm / "scheduler" / "scheduler_config.json",
        num_train_timesteps="REMOVE",
        timesteps=500,
        _class_name="GaussianDDPMScheduler",
    )
    assert formats.read(ddpm).settings["sde.num_steps"] == 500


def test_settings_of_ours_outside_of_the_folder_named_are_another_network_s(tmp_path):
    fixture = Path(__file__).parents[3] / "fixtures" / "diffusers" / "ddpm"
    shutil.copytree(fixture / "unet", tmp_path / "network")
    shutil.copy(fixture / "scheduler" / "scheduler_config.json", tmp_path / "network")
    shutil.copytree(fixture, tmp_path / "pipeline")
    plain = formats.read(tmp_path / "network").settings
    for where in (tmp_path, tmp_path / "pipeline"):
        (where / "scoreflow.json").write_text('{"model.data_scale": 0.5}')
    assert formats.read(tmp_path / "network").settings == plain
    assert formats.read(tmp_path / "pipeline").settings["model.data_scale"] == 0.5
    shutil.move(tmp_path / "pipeline" / "scoreflow.json", tmp_path / "network")
    assert formats.read(tmp_path / "network").settings["model.data_scale"] == 0.5
