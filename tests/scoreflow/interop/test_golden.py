"""diffusers' and OpenAI's networks against their own code, and against each likely misreading."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scoreflow.data.levels import centres
from scoreflow.losses.decoder import decoder_term
from scoreflow.losses.variational import prior_term, term
from scoreflow.samplers import DDIM, Clipped, DPMSolver, sample
from scoreflow.samplers.reverse_variance import reverse_variance
from scoreflow.sde.noise import Noise

DIFFUSERS = ["ddpm", "ddpm_old_names", "train_unconditional", "class_v", "learned_range"]
OPENAI = ["cifar10_like", "adm_legacy_order", "adm_new_order"]
EVERY = [*DIFFUSERS, *OPENAI]
RAW, ROW, SINUSOIDS = 2e-5, 1e-5, 2e-5
"""float32 of the largest value; of a row's largest; float64 networks with float32 sinusoids."""


def relative(ours, theirs):
    """Of the largest value."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def by_row(ours, theirs):
    """The greatest error of a row relative to its largest value."""
    rows = (ours.double() - theirs.double()).flatten(1).abs().amax(1)
    return float((rows / theirs.double().flatten(1).abs().amax(1)).max())


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_the_network_answers_as_the_original(golden, name):
    found = golden(name)
    assert relative(found.bare(found.model()), found.arrays["raw"]) < RAW
    assert relative(found.bare(found.model("float64")), found.arrays["raw64"]) < SINUSOIDS


@pytest.mark.parametrize("name", EVERY)
def test_estimates_at_the_chain_s_times(golden, name):
    found = golden(name)
    x_t, t = found.arrays["x_t"].double(), found.index.double() + 1
    estimate, exact = found.model()(x_t, t), found.model("float64")(x_t, t)
    assert by_row(estimate.eps, found.arrays["eps"]) < ROW
    assert by_row(exact.eps, found.arrays["eps"]) < ROW
    # x_0 = (x_t - sigma eps) / alpha: an error of eps counts sigma / alpha times in it
    alpha, sigma = (found.arrays[k][:, None, None, None] for k in ("alpha", "sigma"))
    of_eps = ROW * float((sigma * found.arrays["eps"] / alpha).abs().max())
    reach = found.arrays["x0"].flatten(1).abs().amax(1)
    errors = (estimate.x_0 - found.arrays["x0"]).flatten(1).abs().amax(1)
    assert bool((errors <= ROW * reach + of_eps).all())
    assert by_row(estimate.x_0[:3], found.arrays["x0"][:3]) < 10 * ROW


@pytest.mark.parametrize("name", ["train_unconditional", "class_v", "cifar10_like"])
def test_images_between_minus_and_plus_one_inclusive_are_our_bins_centres(golden, name):
    """Theirs is 2 k / 255 - 1 and ours (2 k + 1) / 256 - 1: one is 255 / 256 of the other."""
    found, unit = golden(name), 255 / 256
    levels = found.arrays["image_levels"]
    theirs = levels.double() * 2 / 255 - 1
    torch.testing.assert_close(centres(levels, 256), unit * theirs)
    model = found.model("float64", model__data_scale=unit)
    t = found.index.double() + 1
    estimate = model(unit * found.arrays["x_t"].double(), t)
    assert by_row(estimate.eps, found.arrays["eps"]) < ROW
    assert by_row(estimate.x_0[:3], unit * found.arrays["x0"][:3]) < 10 * ROW
    alpha, sigma = found.model().sde.alpha(t), found.model().sde.sigma(t)
    torch.testing.assert_close(model.sde.alpha(t), alpha)
    torch.testing.assert_close(model.sde.sigma(t), unit * sigma)


@pytest.mark.parametrize("name", EVERY)
def test_the_schedule_is_the_original_s(golden, name):
    found, sde = golden(name), golden(name).model().sde
    t = found.arrays["table_t" if "table_t" in found.arrays else "table_index"].double() + 1
    torch.testing.assert_close(sde.alpha(t), found.arrays["table_alpha"], rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(sde.sigma(t), found.arrays["table_sigma"], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", ["train_unconditional", "cifar10_like"])
def test_raw_weights_are_read_beside_the_averaged_ones(golden, name):
    found = golden(name)
    assert relative(found.bare(found.model(raw=True)), found.arrays["raw_not_ema"]) < RAW
    assert relative(found.bare(found.model()), found.arrays["raw_not_ema"]) > 0.01


# ---- each misreading shows ----------------------------------------------------------------------

SWITCHES = {
    "downsample_padding = 1": {"model__padding": "symmetric"},
    "downsample_padding = 0": {"model__padding": "bottom_right"},
    "flip_sin_to_cos = True": {"model__embedding_order": "cos_sin"},
    "flip_sin_to_cos = False": {"model__embedding_order": "sin_cos"},
    "freq_shift = 0": {"model__frequency_shift": 0},
    "freq_shift = 1": {"model__frequency_shift": 1},
    "norm_eps = 1e-05": {"model__norm_eps": 1e-5},
    "norm_eps = 1e-06": {"model__norm_eps": 1e-6},
    "attention_head_dim = 4": {"model__head_channels": 4},
    "attention_head_dim = None": {"model__head_channels": 0},
    "timesteps counted from 1": {"model__label_offset": 0.0},
    "GroupNorm eps 1e-6": {"model__norm_eps": 1e-6},
    "sines before cosines": {"model__embedding_order": "sin_cos"},
    "frequencies with half - 1": {"model__frequency_shift": 1},
    "label counted from 1": {"model__label_offset": 0.0},
    "padding at the bottom and right only": {"model__padding": "bottom_right"},
    "label not rescaled (the index itself)": {
        "model__label_scale": 1.0,
        "model__label_offset": -1.0,
    },
}
"""Misreadings that a config key is."""
OTHERWISE = {
    "one head",
    "q and k exchanged",
    "classes counted from 1",
    "qkv rows in the other order (qkv-major against head-major)",
    "scale and shift exchanged",
    "raw instead of EMA weights",
}
"""Misreadings of weights or classes, which the other tests make."""


@pytest.mark.parametrize("name", EVERY)
def test_a_wrong_switch_errs_as_much_as_the_original_told(golden, name):
    found = golden(name)
    told = {k: v for k, v in found.about["errors_of_wrong_readings"].items() if k != "what"}
    assert told.keys() <= SWITCHES.keys() | OTHERWISE
    for reading, error in told.items():
        if reading in SWITCHES:
            wrong = found.bare(found.model(**SWITCHES[reading]))
            assert relative(wrong, found.arrays["raw"]) == pytest.approx(error, rel=0.02), reading


@pytest.mark.parametrize("name", EVERY)
def test_wrong_weights_err_as_much_as_the_original_told(golden, name):
    found = golden(name)
    told = found.about["errors_of_wrong_readings"]
    model = found.model()
    for reading, change in (
        ("q and k exchanged", q_and_k_exchanged),
        ("scale and shift exchanged", halves_exchanged),
    ):
        if reading in told:
            wrong = found.model()
            change(wrong.network)
            error = relative(found.bare(wrong), found.arrays["raw"])
            assert error == pytest.approx(told[reading], rel=0.02), reading
    if "classes counted from 1" in told:
        wrong = model.labelled((found.arrays["class_labels"] + 1) % model.num_classes)
        assert relative(found.bare(wrong), found.arrays["raw"]) > 0.01
    orders = {"qkv_major": "head_major", "head_major": "qkv_major"}
    own = found.options.get("attention_order", "head_major")
    for reading, options in (
        ("qkv rows in the other order (qkv-major against head-major)",
         {**found.options, "attention_order": orders[own]}),
        ("one head", {k: v for k, v in found.options.items() if "head" not in k} | {"heads": 1}),
    ):  # fmt: skip
        if reading in told:
            wrong = replace(found, options=options)
            error = relative(wrong.bare(wrong.model()), found.arrays["raw"])
            assert error == pytest.approx(told[reading], rel=0.02), reading


def q_and_k_exchanged(network):
    for name, value in network.state_dict().items():
        if ".qkv." in name:
            q, k, v = value.clone().chunk(3)
            value.copy_(torch.cat((k, q, v)))


def halves_exchanged(network):
    for name, value in network.state_dict().items():
        if ".dense." in name:
            value.copy_(torch.cat(value.clone().chunk(2)[::-1]))


# ---- trajectories -------------------------------------------------------------------------------


def drawn(found, sampler, first, indices):
    """x after each step from x_T, of the first two classes where there are any."""
    model = found.model("float64")
    if "class_labels" in found.arrays:
        model = model.labelled(found.arrays["class_labels"][:2].long())
    times = torch.cat((indices.double() + 1, torch.zeros(1, dtype=torch.float64)))
    seen, x_T = {}, found.arrays["x_T"]
    sample(
        sampler,
        model if first is None else first(model),
        model.sde,
        times,
        Noise.of(0, 0, len(x_T)),
        tuple(x_T.shape[1:]),
        after_step=seen.__setitem__,
        start=x_T,
    )
    return torch.stack([seen[1], seen[5], seen[10]])


@pytest.mark.parametrize("name", DIFFUSERS)
def test_ddim_and_dpm_solver_go_the_library_s_way_step_by_step(golden, name):
    found = golden(name)
    ddim = drawn(found, DDIM(), None, found.arrays["ddim_t"])
    assert relative(ddim, found.arrays["ddim_x"]) < SINUSOIDS
    dpm = drawn(found, DPMSolver(2), None, found.arrays["dpm_t"])
    assert relative(dpm, found.arrays["dpm_x"]) < SINUSOIDS


# ---- variance and bound -------------------------------------------------------------------------


def test_the_learned_range_is_the_library_s(golden):
    found = golden("learned_range")
    x_t, t = found.arrays["x_t"].double(), found.index.double() + 1
    prediction, sde = found.model("float64")(x_t, t), found.model().sde
    mean, _ = sde.posterior(x_t, prediction.x_0, t, t - 1)
    assert by_row(mean, found.arrays["mean"]) < ROW
    later = t > 1  # the library's own end at its first step is a clamp at 1e-20
    logs = reverse_variance(prediction, sde, t, t - 1, "learned").log()
    assert relative(logs[later], found.arrays["log_variance_original"][later]) < RAW


@pytest.mark.parametrize("name", OPENAI)
def test_mean_and_variance_of_a_step_are_the_original_s(golden, name):
    found = golden(name)
    x_t, t = found.arrays["x_t"].double(), found.index.double() + 1
    model = found.model("float64")
    for denoiser, which in ((model, "unclipped"), (Clipped(model), "clipped")):
        prediction = denoiser(x_t, t)
        mean, _ = model.sde.posterior(x_t, prediction.x_0, t, t - 1)
        assert by_row(mean, found.arrays[f"mean_{which}64"]) < SINUSOIDS
    logs = reverse_variance(prediction, model.sde, t, t - 1, "learned").log()
    logs = logs.expand_as(x_t)
    torch.testing.assert_close(logs, found.arrays["log_variance64"], rtol=RAW, atol=RAW)


def bound_terms(found, steps, seed, clip):
    """The terms of a chain through these indices, bits/dim, of the golden noise: (2, K)."""
    model, x_0 = found.model("float64"), found.arrays["bpd_images"].double()
    denoiser = Clipped(model) if clip else model
    t, columns = steps.double() + 1, []
    before = torch.cat((torch.zeros(1, dtype=torch.float64), t[:-1]))
    for k in range(1, len(t)):  # the first is the decoder's
        draw = np.random.RandomState(seed + k).standard_normal(tuple(x_0.shape))
        eps = torch.from_numpy(draw.astype(np.float32)).double()
        x_t = model.sde.perturb(x_0, t[k], eps)
        prediction = denoiser(x_t, t[k])
        columns.append(term(prediction, model.sde, x_0, t[k], before[k], "learned"))
    return torch.stack(columns, 1) / (x_0[0].numel() * math.log(2))


@pytest.mark.parametrize("clip", [True, False])
def test_the_terms_of_the_bound_are_improved_diffusion_s(golden, clip):
    found = golden("cifar10_like")
    seed = found.about["noise_of_calc_bpd_loop"]["seed"]
    ours = bound_terms(found, found.arrays["bpd50_steps"], seed, clip)
    theirs = found.arrays["bpd50_vb64" + ("" if clip else "_unclipped")][:, 1:]
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-9)
    x_0, sde = found.arrays["bpd_images"].double(), found.model().sde
    prior = prior_term(sde, x_0) / (x_0[0].numel() * math.log(2))
    torch.testing.assert_close(prior, found.arrays["bpd50_prior64"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["bpd50_vb64", "bpd_full_vb"])
def test_the_decoder_s_term_is_improved_diffusion_s_in_our_bins(golden, name):
    """Its bins, 2 / 255 wide about 2 k / 255 - 1, are ours in the units of its images."""
    found = golden("cifar10_like")
    unit, seed = 255 / 256, found.about["noise_of_calc_bpd_loop"]["seed"]
    theirs = found.arrays["bpd_images"].double()
    levels = ((theirs + 1) * 127.5).round().to(torch.uint8)
    model = found.model("float64", model__data_scale=unit)
    x_0, t = centres(levels, 256), torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(x_0, unit * theirs, rtol=1e-6, atol=1e-7)
    draw = np.random.RandomState(seed).standard_normal(tuple(x_0.shape)).astype(np.float32)
    prediction = Clipped(model)(model.sde.perturb(x_0, t, torch.from_numpy(draw).double()), t)
    # the lower end of the learned range is that of the step before in the chain that is used
    s = found.arrays["bpd50_steps"][1].double() + 1 if name == "bpd50_vb64" else t + 1
    _, w = model.sde.transition(t, s)
    low = (model.sde.variance(t) * w / model.sde.variance(s)).log()
    high = model.sde.variance(t).log()
    variance = (low + prediction.fraction * (high - low)).exp()
    ours = decoder_term(prediction.x_0, levels, 256, variance) / (x_0[0].numel() * math.log(2))
    # theirs takes a normal's distribution function by tanh, right to 2e-4
    torch.testing.assert_close(ours, found.arrays[name][:, 0].double(), rtol=3e-4, atol=1e-7)


def test_terms_of_the_whole_chain(golden):
    found = golden("cifar10_like")
    seed, some = found.about["noise_of_calc_bpd_loop"]["seed"], [1, 7, 60, 400, 1500, 2900, 3900]
    for k in some:
        steps = torch.tensor([k - 1, k])
        ours = bound_terms(found, steps, seed + k - 1, clip=True)[:, 0]
        theirs = found.arrays["bpd_full_vb"][:, k].double()
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-7)
