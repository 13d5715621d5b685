"""Export to diffusers, against diffusers itself, and to safetensors."""

import itertools
import json
import logging
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.configs import digits_flow
from scoreflow.errors import RequestError
from scoreflow.factory import assembly
from scoreflow.imported_run import config_of, import_network
from scoreflow.interop import formats
from scoreflow.interop.diffusers import reader, writer
from scoreflow.interop.diffusers.folder import OUR_KEYS
from scoreflow.interop.diffusers.names import given_back, renamed
from scoreflow.interop.export import export
from scoreflow.interop.imported import Exported
from scoreflow.models.time_embedding import sinusoidal_embedding
from scoreflow.samplers import DDIM, DPMSolver, Step, grid
from scoreflow.samplers.sampler import Multistep
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import load

diffusers = pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")

SMALL = {
    "data.name": "none",
    "model.shape": (3, 8, 8),
    "model.channels": 8,
    "model.multipliers": (1, 2),
    "model.attention_sizes": (4,),
    "model.blocks": 1,
    "model.num_groups": 4,
    "sampling.clip": False,
}
STEPS = 10


def settings(**more):
    named = {key.replace("__", "."): value for key, value in more.items()}
    return {**flatten(Config().to_dict()), **SMALL, **named}


def lively(weights, seed=0):
    """Random weights of such size that every layer matters and estimates stay moderate."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in weights.items():
        if not value.is_floating_point():
            found[name] = value
            continue
        noise = torch.randn(value.shape, generator=generator)
        fan_in = max(1, value[0].numel()) if value.ndim > 1 else 100
        scales = name.endswith("weight") and ("norm" in name or name == "head.0.weight")
        found[name] = noise * fan_in**-0.5 + (1.0 if scales else 0.0)
    return found


def run_of(folder, **more):
    """A run with random weights, the averaged ones unlike the raw ones."""
    config = resolve(settings(**more), "the test")
    experiment = assembly.experiment(config, torch.device("cpu"), training=False)
    own = experiment.network.state_dict()
    state = {"step": 7, "model": lively(own, 1), "ema": lively(own, 0), "optimizer": {}}
    with RunDir.create(folder, config.to_dict(), {}) as run:
        run.save_checkpoint(7, state)
    return load(folder, "cpu")


def loaded(path):
    """The pipeline, of whose loading nobody warns."""
    said, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            pipe = diffusers.DDPMPipeline.from_pretrained(path, low_cpu_mem_usage=False)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert said == []
    return pipe


def precisely(scheduler, alphas_cumprod):
    """A scheduler with its table in float64, so that formulas are compared."""
    scheduler.alphas_cumprod = alphas_cumprod
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def their_way(kind, pipe, run, x, label=None):
    """Their scheduler's states from x on, its times taken as the pipeline's config says."""
    theirs = kind.from_config(pipe.scheduler.config)
    integers = torch.arange(1, run.model.sde.num_steps + 1, dtype=torch.float64)
    table = run.model.sde.alpha(integers) ** 2
    torch.testing.assert_close(theirs.alphas_cumprod.double(), table, rtol=2e-4, atol=1e-8)
    precisely(theirs, table)
    theirs.set_timesteps(STEPS)
    if getattr(theirs, "sigmas", None) is not None:
        kept = table[theirs.timesteps]
        theirs.sigmas = torch.cat([((1 - kept) / kept).sqrt(), kept.new_zeros(1)])
    states, told = [], {} if label is None else {"class_labels": torch.full((len(x),), label)}
    with torch.no_grad():
        for index in theirs.timesteps:
            out = pipe.unet(x, index, **told).sample
            x = theirs.step(out, index, x).prev_sample.double()
            states.append(x)
    return states


def our_way(sampler, model, x):
    times, memory, states = grid("uniform", model.sde, STEPS), None, []
    with torch.no_grad():
        for t, s in itertools.pairwise(times):
            step = Step(model, model.sde, t, s, Noise.of(0, 0, len(x)))
            if isinstance(sampler, Multistep):
                x, memory = sampler.advance(x, step, memory)
            else:
                x = sampler.step(x, step)
            states.append(x)
    return states


def in_float64(pipe, run):
    """Both networks in float64, with sinusoids that are the same to the last bit."""
    pipe.unet.double()
    c = run.config.model
    how = (c.channels, c.embedding_order, c.frequency_shift)
    pipe.unet.time_proj.forward = lambda t: sinusoidal_embedding(t.float(), *how)
    run.model.network.double()
    return run.model.in_precision("float64")


CASES = {
    "linear": {},
    "cosine": {"sde__schedule": "cosine"},
    "log_linear": {"sde__schedule": "log_linear", "sde__num_steps": 200},
    "v": {"model__prediction": "v", "sde__schedule": "cosine"},
    "x_0": {"model__prediction": "x_0"},
    "score": {"model__prediction": "score"},
    "scaled_linear": {"sde__schedule": "scaled_linear"},
    "closed_form": {"sde__schedule": "linear_continuous"},
    "inclusive": {"model__data_scale": 255 / 256},
    "inclusive_v": {"model__data_scale": 255 / 256, "model__prediction": "v"},
    "switches": {
        "model__norm_eps": 1e-5,
        "model__padding": "symmetric",
        "model__embedding_order": "cos_sin",
        "model__frequency_shift": 0,
        "model__head_channels": 4,
        "model__scale_shift": True,
        "model__integer_times": True,
    },
    "heads": {
        "model__heads": 2,
        "model__attention_middle": False,
        "model__shape": (3, 8, 4),
        "model__attention_sizes": (8,),
    },
    "levels": {
        "model__shape": (1, 16, 16),
        "model__multipliers": (1, 2, 2),
        "model__attention_sizes": (8, 4),
        "model__blocks": 2,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_ddim_of_diffusers_is_ours_step_by_step(case, tmp_path):
    run = run_of(tmp_path / "run", **CASES[case])
    pipe = loaded(run.export("diffusers", tmp_path / "out"))
    model = in_float64(pipe, run)
    x = Noise.of(0, 0, 2).normal(Stream.PRIOR, run.data.train.shape[1:])
    unit = run.config.model.data_scale  # of images from -1 to 1 inclusive, as theirs are
    theirs = their_way(diffusers.DDIMScheduler, pipe, run, x / unit)
    for ours, expected in zip(our_way(DDIM(), model, x), theirs, strict=True):
        torch.testing.assert_close(ours, unit * expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", ["linear", "v", "score"])
def test_dpm_solver_of_diffusers_is_ours_step_by_step(case, tmp_path):
    """But for the last step, which it takes at first order; its x is rounded to float32."""
    run = run_of(tmp_path / "run", **CASES[case])
    pipe = loaded(run.export("diffusers", tmp_path / "out"))
    model = in_float64(pipe, run)
    x = Noise.of(0, 0, 2).normal(Stream.PRIOR, run.data.train.shape[1:])
    theirs = their_way(diffusers.DPMSolverMultistepScheduler, pipe, run, x)
    for ours, expected in list(zip(our_way(DPMSolver(2), model, x), theirs, strict=True))[:-1]:
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=2e-5)


FLOW = {
    "sde__name": "rectified",
    "model__prediction": "u",
    "model__input_scale": "none",
    "model__label_offset": 0.0,
}


@pytest.mark.parametrize("k", [1.0, 3.0])
def test_flow_match_euler_of_diffusers_is_our_ddim_step_by_step(tmp_path, k):
    """From a folder that their pipeline loads and draws by, to their sigmas' float32."""
    run = run_of(tmp_path / "run", sampling__shift=k, sampling__steps=20, **FLOW)
    assert run.config.sampling.shift == k
    pipe = loaded(run.export("diffusers", tmp_path / "out"))
    theirs = pipe.scheduler
    assert isinstance(theirs, diffusers.FlowMatchEulerDiscreteScheduler)
    assert theirs.config.shift == k
    model = in_float64(pipe, run)
    x = Noise.of(0, 0, 2).normal(Stream.PRIOR, run.data.train.shape[1:])
    theirs.set_timesteps(STEPS)
    times = torch.cat([theirs.timesteps.double(), torch.zeros(1).double()])
    assert times[0] == run.model.sde.num_steps
    own = x
    for (t, s), index in zip(itertools.pairwise(times), theirs.timesteps, strict=True):
        with torch.no_grad():
            step = Step(model, model.sde, t, s, Noise.of(0, 0, 2))
            own = DDIM().step(own, step)
            x = theirs.step(pipe.unet(x, index).sample, index, x).prev_sample.double()
        torch.testing.assert_close(own, x, rtol=1e-5, atol=2e-5)
    pipe.unet.float()
    drawn = pipe(batch_size=1, num_inference_steps=3, output_type="np").images
    assert drawn.shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.prediction", "v"),
        ("model.input_scale", "unit"),
        ("model.label_offset", -1.0),
        ("model.label", "log_snr"),
        ("model.integer_times", True),
        ("sde.name", "edm"),
    ],
)
def test_what_their_flow_matching_has_not_is_refused_by_its_key(key, value):
    config = resolve(settings(**FLOW) | {key: value}, "the test")
    with pytest.raises(RequestError, match=rf"^{key} must be .*, got {value}"):
        writer.refuse_unlike(Config.of(config))


def test_the_digits_by_flow_matching_can_be_exported():
    flat = flatten(digits_flow.get_config().to_dict())
    writer.refuse_unlike(Config.of(resolve(flat, "the test")))


def test_a_shift_of_a_chain_is_refused():
    config = resolve(settings(sampling__shift=2.0, sampling__steps=20), "the test")
    with pytest.raises(RequestError, match=r"^sampling\.shift must be 1\.0 .*DDPMScheduler"):
        writer.refuse_unlike(Config.of(config))


def test_a_key_that_they_do_not_know_would_be_heard(tmp_path):
    out = run_of(tmp_path / "run").export("diffusers", tmp_path / "out")
    path = out / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding": 1}))
    with pytest.raises(AssertionError, match="padding"):
        loaded(out)


def test_in_float32_the_networks_agree_as_they_are(tmp_path):
    run = run_of(tmp_path / "run")
    pipe = loaded(run.export("diffusers", tmp_path / "out"))
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for index in (0, 500, 999):
        with torch.no_grad():
            theirs = pipe.unet(x, index).sample
            ours = run.model.network(x, torch.full((3,), float(index)))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


def test_the_averaged_and_the_raw_weights(tmp_path):
    run = run_of(tmp_path / "run")
    for which, saved in (("ema", "ema"), ("raw", "model")):
        out = run.export("diffusers", tmp_path / which, which)
        file = out / "unet" / "diffusion_pytorch_model.safetensors"
        expected = run.weights(saved)[0].network.state_dict()
        found = renamed(safetensors.load_file(file), file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(RequestError, match="ema or raw, got 'both'"):
        run.export("diffusers", tmp_path / "both", "both")


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_bit_for_bit(case, tmp_path):
    """Weights, process and asking; only "score" comes back as eps, its sign in the weights."""
    run = run_of(tmp_path / "run", **CASES[case])
    back = reader.read(run.export("diffusers", tmp_path / "out"), {})
    own = run.model.network.state_dict()
    assert back.weights.keys() == own.keys()
    turned = {"head.2.weight", "head.2.bias"} if case == "score" else set()
    for name, value in own.items():
        assert torch.equal(back.weights[name], -value if name in turned else value), name
    config = resolve({**settings(), **back.settings}, "the import")
    assert config.model.prediction == ("eps" if turned else run.config.model.prediction)
    times = torch.arange(1, run.config.sde.num_steps + 1, dtype=torch.float64)
    sde = assembly.build_sde(config)
    assert torch.equal(sde.log_alpha(times), run.model.sde.log_alpha(times))
    for key in ("blocks", "attention_sizes", "norm_eps", "padding", "embedding_order"):
        assert config.model[key] == run.config.model[key]


@pytest.mark.parametrize("null_class", [True, False])
def test_classes_come_back_as_they_were(null_class, tmp_path):
    run = run_of(
        tmp_path / "run",
        model__conditional=True,
        model__num_classes=3,
        model__null_class=null_class,
        training__label_dropout=0.1 if null_class else 0.0,
    )
    back = reader.read(run.export("diffusers", tmp_path / "out"), {})
    assert back.settings["model.num_classes"] == 3
    assert back.settings["model.null_class"] == null_class
    assert back.facts["classes"].startswith("3, and n")


def test_an_import_of_an_export_is_the_same_run(tmp_path):
    """Process, points of a level and times are kept, which diffusers has no place for."""
    run = load(Path(__file__).parents[2] / "fixtures" / "run-0.1", "cpu")
    out = run.export("diffusers", tmp_path / "out")
    back = import_network(out, tmp_path / "back", data="digits", device="cpu", anyway=True)
    for key in OUR_KEYS:
        if key not in ("model.num_classes", "model.conditional"):
            assert flatten(back.config.to_dict())[key] == flatten(run.config.to_dict())[key], key
    x, images = run.sample(4, "dpm", steps=4), run.data.test[:3]
    assert torch.equal(back.sample(4, "dpm", steps=4), x)
    settings = {"method": "dopri5", "probes": 1, "tolerance": 1e-2, "tolerance_bits": 1e-2}
    settings["checked"] = 0
    found, own = (each.log_likelihood(images, **settings) for each in (back, run))
    assert torch.equal(found.bits_per_dim, own.bits_per_dim)


THEIRS = {
    "examples": {"attention_head_dim": 8, "norm_eps": 1e-5},
    "as_ours": {
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
    },
    "shifted": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "no_middle": {"add_attention": False, "num_class_embeds": 5},
    "oblong": {"sample_size": [8, 16], "dropout": 0.25},
}


@pytest.mark.parametrize("case", THEIRS)
def test_theirs_through_ours_is_theirs(case, tmp_path):
    """Every switch that is read is written back, and every tensor."""
    unet = diffusers.UNet2DModel(
        **{
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **THEIRS[case],
        }
    )
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "theirs")
    found = reader.read(tmp_path / "theirs", {})
    config = Config.of_flat({**settings(), **found.settings}, "the test")
    event = tuple(found.settings["model.shape"])
    export(Exported(config, found.weights, event, "ema", 0), "diffusers", tmp_path / "ours")
    pipe = loaded(tmp_path / "ours")
    # pipe.unet.config has lists where the file has, and an argument left out is its default
    own = {k: v for k, v in unet.config.items() if k[0] != "_"}
    again = {k: pipe.unet.config[k] for k in own}
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
    assert again == listed
    back, there = pipe.unet.state_dict(), unet.state_dict()
    assert back.keys() == there.keys()
    assert all(torch.equal(back[name], there[name]) for name in there)
    assert torch.equal(pipe.scheduler.betas, scheduler.betas)


def test_names_are_undone():
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(32, 32, 64, 64))
    there = unet.state_dict()
    back = given_back(renamed(there, None))
    assert back.keys() == there.keys()
    assert all(torch.equal(back[name], there[name]) for name in there)


def test_a_learned_variance_is_their_learned_range(tmp_path):
    run = run_of(tmp_path / "run", model__learned_variance=True, training__objective="hybrid")
    pipe = loaded(run.export("diffusers", tmp_path / "out"))
    assert pipe.scheduler.config.variance_type == "learned_range"
    assert pipe.unet.config.out_channels == 6
    images = pipe(batch_size=1, num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 8, 8, 3)


def test_classes_are_theirs_one_later(tmp_path):
    """Row 0 of theirs is the network without a class."""
    more = {"data.name": "digits", "model.shape": (1, 8, 8), "model.conditional": True}
    run = run_of(tmp_path / "run", **{k.replace(".", "__"): v for k, v in more.items()})
    pipe = loaded(run.export("diffusers", tmp_path / "out"))
    assert pipe.unet.config.num_class_embeds == 11
    model = in_float64(pipe, run)
    x = Noise.of(0, 0, 2).normal(Stream.PRIOR, (1, 8, 8))
    for label, theirs in ((None, 0), (0, 1), (9, 10)):
        expected = their_way(diffusers.DDIMScheduler, pipe, run, x, theirs)
        found = our_way(DDIM(), model.labelled(label), x)
        torch.testing.assert_close(found[-1], expected[-1], rtol=1e-8, atol=1e-8)


REFUSED = {
    "sde.name": "ve",
    "model.prediction": "mean",
    "model.class_embedding": "before",
    "model.time_embedding": "fourier",
    "model.channels_per_group": 4,
    "model.attention_up": "last",
    "model.rescaled_skips": True,
    "model.resample": "residual",
    "model.fir": True,
    "model.input_pyramid": True,
    "model.label": "sigma",
    "model.label_scale": 0.999,
    "model.label_offset": 0.0,
    "model.input_scale": "alpha",
    "model.data_std": 0.5,
    "model.data_range": "unit",
    "model.name": "mlp",
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_diffusers_has_not_is_refused_by_its_key(key):
    config = Config.of_flat({**settings(), key: REFUSED[key]}, "the test")
    with pytest.raises(RequestError, match=f"{key} must be .*got {REFUSED[key]}: export to"):
        writer.refuse_unlike(config)
    writer.refuse_unlike(Config.of_flat(settings(), "the test"))
    assert set(REFUSED) == set(writer.EXPRESSED)


def test_heads_must_have_one_size():
    config = Config.of_flat(
        {**settings(), "model.heads": 2, "model.attention_sizes": (8, 4)}, "the test"
    )
    with pytest.raises(RequestError, match=r"model\.heads must be 1, or model\.head_channels"):
        writer._head_channels(config, [8, 16], [True, True])
    assert writer._head_channels(config, [8, 16], [False, True]) == 8


def test_closed_form_betas_keep_alpha():
    """exp of the integral of beta from beta_min to beta_max (Song et al. 2021, Eq. 33)."""
    flat = {**settings(), "sde.schedule": "linear_continuous", "sde.num_steps": 100}
    found = writer.betas(Config.of_flat(flat, "the test").sde)["trained_betas"]
    alpha_bar = torch.tensor(found, dtype=torch.float64).neg().add(1).cumprod(0)
    u = torch.arange(1, 101, dtype=torch.float64) / 100
    integral = 0.1 * u + (20 - 0.1) * u**2 / 2
    torch.testing.assert_close(alpha_bar, torch.exp(-integral), rtol=1e-12, atol=0)


def test_safetensors_hold_names_and_config(tmp_path):
    run = run_of(tmp_path / "run")
    for which, saved in (("ema", "ema"), ("raw", "model")):
        path = run.export("safetensors", tmp_path / f"{which}.safetensors", which)
        found, expected = safetensors.load_file(path), run.weights(saved)[0].network.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            told = file.metadata()
        assert (told["weights"], told["step"]) == (which, "7")
        config = resolve(flatten(json.loads(told["config"])), "the file")
        assert config.to_dict() == run.config.to_dict()


def test_how_it_is_drawn_may_be_said(tmp_path, capfd):
    run_of(tmp_path / "run")
    ask = ["run.py", "--mode=export", f"--workdir={tmp_path / 'run'}", "--to=diffusers"]
    more = ("clip=true", "variance=posterior", "grid=leading")
    told = [f"--config.sampling.{each}" for each in more]
    assert main([*ask, *told, f"--out={tmp_path / 'out'}", "--device=cpu"]) == 0
    c = loaded(tmp_path / "out").scheduler.config
    found = (c.clip_sample, c.variance_type, c.timestep_spacing)
    assert found == (True, "fixed_small", "leading")


def test_the_command_and_what_it_refuses(tmp_path, capfd):
    run_of(tmp_path / "run")
    ask = ["run.py", "--mode=export", f"--workdir={tmp_path / 'run'}", "--device=cpu"]
    out = tmp_path / "deep" / "out"
    assert main([*ask, "--to=diffusers", f"--out={out}"]) == 0
    assert f"DDPMPipeline.from_pretrained('{out}')" in capfd.readouterr().out
    assert loaded(out).unet.config.sample_size == 8
    assert main([*ask, "--to=safetensors", "--weights=raw", f"--out={tmp_path / 'w'}"]) == 0
    for more, said in (
        (["--to=diffusers", f"--out={out}"], "is there already: choose another place"),
        (["--to=diffuser", "--out=x"], "unknown format 'diffuser' to export to; did you mean"),
        (["--to=diffusers"], "--mode export needs --out, a new folder or file"),
        (["--out=x"], "--mode export needs --to, diffusers or safetensors"),
        (["--to=diffusers", "--out=x", "--weights=best"], "weights must be ema or raw"),
        (["--to=diffusers", "--out=x", "--config.sampling.steps=3"], "has no effect on"),
    ):
        assert main([*ask, *more]) == 2
        assert said in capfd.readouterr().err
    shutil.rmtree(out)
    assert main(["run.py", "--mode=sample", f"--workdir={tmp_path}", "--to=diffusers"]) == 2
    assert "--to is of --mode export, got --mode sample" in capfd.readouterr().err


@pytest.mark.parametrize("scale", [1.0, 255 / 256])
def test_where_its_levels_lie_comes_back_with_it(tmp_path, scale):
    """Ours are the centres of bins, or anywhere in them, which no other codebase says or asks."""
    kept = {"training__dequantization": "uniform" if scale == 1 else "centre"}
    run = run_of(tmp_path / "run", model__data_scale=scale, **kept)
    run.export("diffusers", tmp_path / "out")
    loaded(tmp_path / "out")
    config = config_of(reader.read(tmp_path / "out", {}), {})
    assert config.model.data_scale == scale
    assert config.training.dequantization == kept["training__dequantization"]
    assert (config.likelihood.dequantization == "uniform") == (scale == 1)


def test_a_file_of_safetensors_comes_back_as_the_run_that_it_was(tmp_path):
    run = load(Path(__file__).parents[2] / "fixtures" / "run-0.1", "cpu")
    out = run.export("safetensors", tmp_path / "out.safetensors")
    back = import_network(out, tmp_path / "back", data="digits", device="cpu", anyway=True)
    assert back.fingerprint == run.fingerprint
    assert back.step == run.step
    own, theirs = (flatten(each.config.to_dict()) for each in (run, back))
    moved = {"model.shape", "data.name"}
    assert {k for k in own if k.split(".")[0] in ("sde", "model", "training") and k not in moved
            and own[k] != theirs[k]} == set()  # fmt: skip
    assert torch.equal(back.sample(4, "dpm", steps=4), run.sample(4, "dpm", steps=4))


def test_the_classes_of_a_file_of_safetensors(tmp_path):
    """The digits' ten, which the run's config leaves to its data and its weights alone know."""
    of_digits = {"data__name": "digits", "model__shape": (0, 0, 0)}
    run = run_of(tmp_path / "run", model__conditional=True, **of_digits)
    assert run.config.model.num_classes == 0
    back = formats.read(run.export("safetensors", tmp_path / "out.safetensors"))
    assert back.format == "scoreflow"
    assert back.settings["model.num_classes"] == 10


def test_a_run_and_a_damaged_export_are_told_what_they_are(tmp_path):
    run = run_of(tmp_path / "run")
    with pytest.raises(RequestError, match="is a run already: pass it as --workdir"):
        formats.read(tmp_path / "run")
    out = run.export("safetensors", tmp_path / "out.safetensors")
    tensors = safetensors.load_file(out)
    safetensors.save_file(tensors, out, {"scoreflow": "1", "config": "[]", "shape": "[3, 8, 8]"})
    with pytest.raises(RequestError, match="is no whole export of ScoreFlow"):
        formats.read(out)
    with pytest.raises(RequestError, match=r"did you mean 'score_sde'.* they are diffusers, "):
        formats.read(out, "score_sd")
