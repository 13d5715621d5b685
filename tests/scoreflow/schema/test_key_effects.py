"""Which keys have an effect under which choices: declared once, true, and refused elsewhere."""

from functools import cache

import pytest
import torch

from scoreflow.cli import command_line
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import build_sde, in_units_of
from scoreflow.factory.data import build_data
from scoreflow.factory.likelihood import build_solver
from scoreflow.factory.model import build_model, build_network
from scoreflow.factory.training import build_objective, build_training
from scoreflow.schema import resolve, task_keys
from scoreflow.schema.config import KEYS, Config, refuse_idle
from scoreflow.schema.ranges import AllBut
from scoreflow.schema.request import Request, flatten
from scoreflow.schema.samplers import NAMES, SAMPLERS, readers_of
from scoreflow.sde.noise import Noise, Stream
from scoreflow.training.trainer import shown

CPU = torch.device("cpu")
FLAT = flatten(Config().to_dict())
DECLARED = [name for name, key in KEYS.items() if key.only]
TINY = {
    "sde.num_steps": 8,
    "sde.beta_max": 6.0,
    "sde.sigma_min": 0.01,
    "sde.betas": [0.1 + k / 100 for k in range(8)],
    "model.channels": 8,
    "model.multipliers": [1, 2],
    "model.blocks": 1,
    "model.attention_sizes": [4],
    "model.num_groups": 4,
    "model.width": 8,
    "model.embedding": 8,
    "training.batch_size": 4,
}
OTHER = {
    "data.test_fraction": 0.5,
    "data.split_seed": 1,
    "data.scale": "ends",
    "sde.schedule": "cosine",
    "sde.betas": [0.2] * 8,
    "sde.beta_min": 0.2,
    "sde.beta_max": 4.0,
    "sde.sigma_min": 0.02,
    "sde.sigma_max": 40.0,
    "sde.alpha_min": 0.02,
    "sde.rho": 3.0,
    "model.learned_variance": True,
    "model.channels": 16,
    "model.multipliers": [1, 1],
    "model.blocks": 2,
    "model.attention_sizes": [8],
    "model.num_groups": 2,
    "model.dropout": 0.5,
    "model.conditional": True,
    "model.num_classes": 12,
    "model.num_levels": 8,
    "model.null_class": False,
    "model.class_embedding": "before",
    "model.stem_multiplier": 2,
    "model.embedding_channels": 16,
    "model.time_embedding": "fourier",
    "model.embedding_order": "cos_sin",
    "model.frequency_shift": 0,
    "model.norm_eps": 0.1,
    "model.channels_per_group": 4,
    "model.padding": "symmetric",
    "model.heads": 2,
    "model.head_channels": 4,
    "model.attention_up": "last",
    "model.attention_middle": False,
    "model.scale_shift": True,
    "model.rescaled_skips": True,
    "model.resample": "residual",
    "model.fir": True,
    "model.input_pyramid": True,
    "model.width": 16,
    "model.depth": 2,
    "model.embedding": 16,
    "training.t_min": 0.5,
    "training.log_normal_mean": -0.5,
    "training.log_normal_std": 0.7,
    "training.shift": 2.0,
    "training.variance": "posterior",
    "training.hybrid_weight": 0.5,
    "training.min_snr_gamma": 0.01,
    "training.p2_gamma": 2.0,
    "training.p2_k": 3.0,
    "training.dequantization": "centre",
    "training.flip": True,
    "training.channels_last": False,
}
"""Another value of each declared key whose effect shows in `built`."""
UNSEEN = {
    "training.recompute": "memory alone: the same numbers",
    "training.compile_mode": "speed alone",
    "training.label_dropout": "read by the trainer: tests/scoreflow/training",
    "training.ema_decay": "of the average alone: tests/scoreflow/training",
    "training.ema_lengths": "of the averages alone: tests/scoreflow/training/posthoc_ema",
    "likelihood.reference": "of other data's scores: tests/scoreflow/cli/applications",
    "likelihood.held_out": "of other data's scores: tests/scoreflow/cli/applications",
}
"""Declared keys whose effect `built` does not show, and why."""
MEASURED = {
    "likelihood.nodes": 16,
    "likelihood.substeps": 2,
    "likelihood.trajectory_tolerance": 1e-3,
    "likelihood.tolerance": 1e-2,
    "likelihood.tolerance_bits": 1e-2,
}
"""Declared keys of the likelihood, which `built` does not measure, and another value of each."""
CLASSIFIED = {"classify.times": 32, "classify.halving": False, "classify.z": 2.0}
"""Declared keys of a classification, and another value of each."""
LOSSLESS = {
    "compress.batch_size": 2,
    "compress.steps": 9,
    "compress.precision": 1,
    "compress.verify": False,
}
PROGRESSIVE = {"compress.part_bits": 4}
"""Declared keys of --mode compress with compress.stop = 0 and with another, and another value."""
REFUSED_ELSEWHERE = {
    "data.scale",
    "data.test_fraction",
    "data.split_seed",
    "model.learned_variance",
    "model.conditional",
    "model.num_classes",
    "training.t_min",
    "training.shift",
}
"""Keys whose idle choices cannot be trained at all."""
NEEDED = {
    "model.learned_variance": {"training.objective": "variational"},
    "training.objective=hybrid": {"model.learned_variance": True},
    "model.name=unet": {"data.name": "digits"},
    "model.name=mlp": {"data.name": "toy"},
    "data.name=toy": {"model.name": "mlp"},
}
"""What a choice, or a key, cannot be built without."""


def of_files(name):
    """Keys of files of images, whose effects the tests of data show."""
    values = KEYS[name].only[0].get("data.name", ())
    return name.startswith("data.") and "images" in values and "digits" not in values


def holding(name):
    """Values under which a key has an effect, by its first way."""
    chosen = {}
    for other, values in KEYS[name].only[0].items():
        chosen |= holding(other) if KEYS[other].only else {}
        chosen[other] = next(v for v in choices_of(other) if v in values)
    return chosen


def choices_of(name):
    """Values of a key that others depend on."""
    listed = {"model.name": ("unet", "mlp"), "model.head_channels": (0, 4)}
    values = listed.get(name) or KEYS[name].choices or (False, True)
    return [value for value in values if value not in ("images", "none", "vectors", "given")]


def failing(name):
    """Configs under which a key is idle: by each key that it depends on, at values that fail."""
    for way in KEYS[name].only:
        for other, values in way.items():
            for value in choices_of(other):
                flat = {**TINY, **holding(name), other: value}
                with_it = completed(flat)
                if value not in values and resolve_refuses(name, with_it):
                    yield with_it


def completed(flat):
    found = {**FLAT, **TINY, **flat}
    for key, more in NEEDED.items():
        other, _, value = key.partition("=")
        if found[other] == value or (not value and found[other] is True):
            found |= {k: v for k, v in more.items() if k not in flat}
    return found


def resolve_refuses(name, flat):
    try:
        refuse_idle({name: flat[name]}, flat)
    except RequestError:
        return True
    return False


@cache
def data_of(name, fraction, seed):
    config = {**FLAT, "data.name": name, "data.test_fraction": fraction, "data.split_seed": seed}
    return build_data(resolve.resolve(config, "the test"), CPU)


def built(flat):
    """Numbers of all that a training is made of: process, data, network, loss and its gradient."""
    config = resolve.resolve(flat, "the test")
    data = data_of(config.data.name, config.data.test_fraction, config.data.split_seed)
    config = in_units_of(Config.of(config), data)
    sde = build_sde(config)
    network = build_network(config, data).train()
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():  # some begin at zero, and what is behind them is unseen
        with torch.no_grad():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    model, objective = build_model(config, network, sde), build_objective(config)
    settings = build_training(config)
    noise = Noise.of(0, 0, 4, CPU)
    x_0 = shown(data, data.train[:4], noise, settings.flip, settings.dequantization)
    t, density = objective.draw(noise, sde)
    eps = torch.randn(x_0.shape, generator=generator)
    if model.num_classes:
        assert data.train_labels is not None
        model = model.labelled(data.train_labels[:4])
    if places := getattr(network, "dropout_places", 0):
        model = model.dropping(noise.words(Stream.TRAIN_DROPOUT, (places, 2)))
    loss = objective.loss(model, x_0, t, eps) / density
    loss.sum().backward()
    times = torch.linspace(1, 8, 15, dtype=torch.float64)
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    strides = torch.tensor([p.stride() for p in network.parameters() if p.ndim == 4])
    buffers = [each.flatten() for each in network.buffers()]
    own = [sde.log_alpha(times), sde.variance(times), x_0, t, loss]
    return [*own, *gradients, strides, *buffers]


def same(one, other):
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


def test_every_declared_key_is_walked_over():
    applied = {*CLASSIFIED, *LOSSLESS, *PROGRESSIVE}
    walked = {*OTHER, *UNSEEN, *MEASURED, *applied, *filter(of_files, DECLARED)}
    assert set(DECLARED) == walked
    assert set(UNSEEN) <= set(DECLARED)


def test_conditions_name_keys_and_choices_that_there_are():
    for name in DECLARED:
        for way in KEYS[name].only:
            for other, values in way.items():
                assert other in KEYS, name
                named = values.names if isinstance(values, AllBut) else values
                if KEYS[other].choices:
                    assert set(named) & set(KEYS[other].choices), name


@pytest.mark.parametrize("name", OTHER)
def test_a_key_changes_something_where_it_is_read_and_nothing_elsewhere(name):
    read = completed({**TINY, **NEEDED.get(name, {}), **holding(name)})
    assert not resolve_refuses(name, read)
    assert not same(built(read), built(completed({**read, name: OTHER[name]})))
    compared = 0
    for flat in failing(name):
        try:
            before, after = built(flat), built({**flat, name: OTHER[name]})
        except RequestError:  # which says it as well
            continue
        assert same(before, after), flat
        compared += 1
    assert compared or name in REFUSED_ELSEWHERE


@pytest.mark.parametrize("name", MEASURED)
def test_a_key_of_a_likelihood_reaches_its_solver_by_its_own_methods_alone(name):
    by_nodes = KEYS[name].only[0]["likelihood.method"] == ("nodes",)
    for method in ("nodes", "dopri5", "scipy:RK45"):
        flat = {**FLAT, "likelihood.method": method}
        asked = {name: MEASURED[name]}
        solver = build_solver(resolve.resolve({**flat, **asked}, "the test"))
        option = name.partition(".")[2]
        assert getattr(solver, option) == MEASURED[name]
        refuse_idle(asked, {**flat, **asked})  # stored by a training, for another method to come
        if by_nodes == (method == "nodes"):
            refuse_idle(asked, {**flat, **asked}, "likelihood")
            continue
        other = "nodes" if by_nodes else "dopri5"  # and the one that takes it
        with pytest.raises(
            RequestError,
            match=rf"{name} has no effect on likelihood\.method = {method}: "
            rf"add --config\.likelihood\.method={other}, or leave it out",
        ):
            refuse_idle(asked, {**flat, **asked}, "likelihood")


@pytest.mark.parametrize("name", CLASSIFIED)
def test_a_key_of_the_bound_has_no_effect_on_the_flow(name):
    asked = {name: CLASSIFIED[name]}
    for by in ("bound", "both"):
        refuse_idle(asked, {**FLAT, "classify.by": by, **asked}, "classify")
    with pytest.raises(RequestError, match=rf"{name} has no effect on classify\.by = flow: add"):
        refuse_idle(asked, {**FLAT, "classify.by": "flow", **asked}, "classify")


@pytest.mark.parametrize("name", [*LOSSLESS, *PROGRESSIVE])
def test_a_key_of_a_compression_is_refused_of_files_of_the_other_kind(name):
    """What each does where it is read: tests/scoreflow/cli/applications."""
    asked = {**LOSSLESS, **PROGRESSIVE}
    for stop in (0, 400):
        flat = {**FLAT, "compress.stop": stop, name: asked[name]}
        refuse_idle({name: asked[name]}, flat)  # stored by a training
        if (stop == 0) == (name in LOSSLESS):
            refuse_idle({name: asked[name]}, flat, "compress")
            continue
        with pytest.raises(
            RequestError, match=rf"{name} has no effect on compress\.stop = {stop}"
        ):
            refuse_idle({name: asked[name]}, flat, "compress")


@pytest.mark.parametrize(
    ("key", "value", "others", "message"),
    [
        ("data.path", "x", {}, "data.name = digits: add --config.data.name=images or --data PATH"),
        ("sde.sigma_max", 5.0, {}, "sde.name = vp: add --config.sde.name=ve"),
        (
            "sde.beta_max",
            5.0,
            {"sde.schedule": "cosine"},
            "sde.schedule = cosine: add --config.sde.schedule=linear",
        ),
        (
            "sde.sigma_min",
            0.1,
            {},
            "sde.schedule = linear and sde.name = vp: add --config.sde.schedule=log_linear or "
            "--config.sde.name=ve",
        ),
        ("sde.beta_min", 0.2, {"sde.name": "ve"}, "sde.name = ve: add --config.sde.name=vp"),
        ("model.width", 9, {}, "model.name = unet: add --config.model.name=mlp"),
        ("model.channels", 9, {"model.name": "a.b:c"}, "model.name = a.b:c: add --config."),
        (
            "training.label_dropout",
            0.5,
            {},
            "model.conditional = false: add --config.model.conditional=true",
        ),
        ("training.dequantization", "centre", {"data.name": "toy"}, "data.name = toy: add --data"),
    ],
)
def test_the_refusal_names_the_choice_and_the_remedy(key, value, others, message):
    flat = {**FLAT, **others, key: value}
    with pytest.raises(RequestError) as refused:
        refuse_idle({key: value}, flat)
    assert str(refused.value).startswith(f"{key} has no effect on {message}")
    assert str(refused.value).endswith(", or leave it out")


def test_what_asks_for_nothing_and_what_is_no_key_of_the_weights_passes():
    refuse_idle({"data.path": "", "sampling.eta": 0.5, "training.num_steps": 3}, FLAT)


def request_for(overrides, workdir):
    return Request("train", workdir, "cpu", "digits", {**FLAT, **overrides}, overrides, False)


def test_a_new_run_is_checked_by_its_own_config_and_a_resumed_one_by_the_saved(tmp_path):
    moved = {"data.path": "elsewhere"}
    with pytest.raises(RequestError, match=r"data\.path has no effect"):
        resolve.training_config(request_for(moved, tmp_path))
    (tmp_path / "config.json").write_text("{}")  # a run of images, whose experiment is not named
    resolve.training_config(request_for(moved, tmp_path))
    saved = {**FLAT, "training.min_snr_gamma": 1.0}
    asked = request_for({"training.min_snr_gamma": 1.0}, tmp_path)
    with pytest.raises(RequestError, match=r"min_snr_gamma has no effect on training\.objective"):
        resolve.resumed_config(asked, saved, tmp_path / "config.json")


def test_a_config_file_may_set_what_is_idle_and_a_flag_may_not(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from scoreflow.configs import default\n\n"
        "def get_config():\n    config = default.get_config()\n"
        "    config.sde.sigma_max = 7.0\n    return config\n"
    )
    command = ["run.py", "--mode=train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    config = resolve.training_config(command_line.parse(command))
    assert config.sde.sigma_max == 7
    with pytest.raises(RequestError, match=r"sde\.sigma_max has no effect on sde\.name = vp"):
        resolve.training_config(command_line.parse([*command, "--config.sde.sigma_max=7.0"]))
    told = [*command, "--config.sde.sigma_max=8.0", "--sde=ve"]
    assert resolve.training_config(command_line.parse(told)).sde.sigma_max == 8
    digits = [*command, "--data=digits"]  # which means no path
    assert resolve.training_config(command_line.parse(digits)).data.path == ""


# ---- keys of samplers, in --mode sample


@pytest.mark.parametrize(
    ("set_here", "told"),
    [
        ({"sampling.eta": 1.0}, "sampling.sampler = ancestral: add --sampler ddim, or leave it"),
        ({"sampling.order": 3}, "sampling.sampler = ancestral: add --sampler dpm, or leave it"),
        (
            {"sampling.sampler": "ode", "sampling.steps": 3},
            "sampling.sampler = ode: add --sampler ancestral, or leave it out",
        ),
        (
            {"sampling.sampler": "pc", "sampling.predictor": "ddim", "sampling.churn": 0.1},
            "sampling.sampler = pc: add --sampler heun, or leave it out",
        ),
        ({"sampling.task": "reconstruct", "sampling.grid": "karras"}, "reconstruct: leave it out"),
        ({"sampling.sampler": "pc", "sampling.predictor": "ddim", "sampling.eta": 1.0}, None),
        ({"sampling.sampler": "pc", "sampling.steps": 9, "sampling.snr": 0.2}, None),
        ({"sampling.task": "interpolate", "sampling.tolerance": 0.1}, None),
        ({"sampling.sampler": "odd", "sampling.eta": 1.0}, None),  # refused where it is chosen
        ({"sampling.seed": 1, "sampling.save": "png", "sampling.label": 1}, None),
    ],
)
def test_a_key_of_another_sampler_is_refused(set_here, told):
    config = {**FLAT, **set_here}
    if told is None:
        task_keys.refuse_unread_keys(config, set_here)
        return
    with pytest.raises(RequestError) as refused:
        task_keys.refuse_unread_keys(config, set_here)
    assert told in str(refused.value)


def test_readers_of_a_key_are_what_builds_the_samplers():
    """Each key that a row of the table hands to its class is read by that sampler alone."""
    for name in NAMES:
        for key in SAMPLERS[name].keys:
            assert name in readers_of(key)
    assert readers_of("seed") == readers_of("batch_size") == ()
    assert set(readers_of("clip")) == set(NAMES) - {"ode"}
