"""The table of errors on data whose errors are known, and the plans that rest on it."""

import json

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import experiment
from scoreflow.factory.sampling import SAMPLERS, build_drawing, needs_moments
from scoreflow.generation import error_table
from scoreflow.runtime import distributed
from scoreflow.samplers import (
    Ancestral,
    Clipped,
    DPMSolver,
    PredictorCorrector,
    Thresholded,
    least_cost,
    step_costs,
)
from scoreflow.schema import request, resolve
from scoreflow.sde import VESDE, VPSDE, Noise, RectifiedSDE, SubVPSDE
from scoreflow.sde.analytic import gaussian
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import TrainedRun

F64 = torch.float64
MEAN = torch.tensor([0.2, -0.1], dtype=F64)
VARIANCES = torch.tensor([0.5, 0.01], dtype=F64)
DATA = gaussian(MEAN, VARIANCES.diag())
SDES = [VPSDE.linear(300), VESDE(90, 0.02, 8.0)]
CPU = torch.device("cpu")


def truth(sde, t):
    """snr V / (1 + snr V): what the exact denoiser doesn't know of eps, mean over the axes."""
    y = sde.log_snr(t).exp()[..., None] * VARIANCES
    return (y / (1 + y)).mean(-1)


@pytest.mark.parametrize("sde", SDES, ids=["vp", "ve"])
def test_the_table_of_a_gaussian_is_the_closed_form(sde):
    """Every entry within 4.5 of its own standard errors, and these are of the right size.

    (The entries share their data, and at large t little else: their mean square scatters.)
    """
    x_0 = DATA.sample(Noise.of(5, 0, 3000))
    found = error_table.measure(DATA.denoiser(sde), sde, 0.5, x_0, 0, 700)
    assert found.times[0] == 0.5
    assert found.times[1] == 1
    assert found.times[-1] == sde.num_steps
    z = (found.eps_error - truth(sde, found.times)) / found.standard_error
    assert z.abs().max() < 4.5
    assert 0.2 < z.square().mean() < 3
    between = torch.tensor([1.0, 1.7, 33.3, 71.0], dtype=F64)
    assert torch.allclose(found(between), truth(sde, between), rtol=0.12)


def test_between_its_times_its_logarithm_is_linear_in_log_snr():
    sde = SDES[0]
    times = torch.tensor([1.0, 100.0, 300.0], dtype=F64)
    table = error_table.ErrorTable(sde, times, torch.tensor([0.9, 0.4, 0.1], dtype=F64), times * 0)
    y = sde.log_snr(times)
    half = sde.time_of_log_snr(0.5 * (y[0] + y[1]))
    found = table(torch.stack([half, *times]))
    torch.testing.assert_close(found, torch.tensor([0.6, 0.9, 0.4, 0.1], dtype=F64))
    assert table(torch.tensor(0.25, dtype=F64)) == pytest.approx(0.9)
    again = error_table.ErrorTable.of_result(sde, json.loads(json.dumps(table.as_result())))
    assert torch.equal(again(times), table(times))


def test_after_its_last_time_it_falls_with_the_snr():
    """To 0 at N of a path whose signal ends there, which a table stops before."""
    sde, last = RectifiedSDE(300), 280.0
    times = torch.tensor([1.0, 100.0, last], dtype=F64)
    table = error_table.ErrorTable(sde, times, torch.tensor([0.9, 0.4, 0.1], dtype=F64), times * 0)
    after = torch.tensor([last, 290.0, 299.0, 300.0], dtype=F64)
    snr = ((300 - after) / after) ** 2
    torch.testing.assert_close(table(after), 0.1 * snr / snr[0], rtol=1e-12, atol=0)
    assert float(error_table.knots(sde, 1)[-1]) == 299
    assert float(error_table.knots(SDES[0], 1)[-1]) == 300


@pytest.mark.parametrize(
    "sde",
    [VPSDE.cosine(1000), SubVPSDE.cosine(1000), VPSDE.linear(1000), VESDE(1000)],
    ids=["cosine", "subvp", "linear", "ve"],
)
def test_between_its_times_it_is_near_the_truth(sde):
    """Of data of two scales, at real times up to N: the cosine's last step spans 7 in log-SNR."""
    knots = error_table.knots(sde, 1)
    table = error_table.ErrorTable(sde, knots, truth(sde, knots), 0 * knots)
    t = torch.linspace(1, 1000, 20_001, dtype=F64)
    torch.testing.assert_close(table(t), truth(sde, t), rtol=5e-3, atol=0)


def test_the_table_does_not_depend_on_the_batches():
    sde, x_0 = SDES[1], DATA.sample(Noise.of(5, 0, 10))
    tables = [error_table.measure(DATA.denoiser(sde), sde, 1, x_0, 0, size) for size in (10, 3)]
    torch.testing.assert_close(tables[0].eps_error, tables[1].eps_error, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="at least 2 training images, got 1"):
        error_table.measure(DATA.denoiser(sde), sde, 1, x_0[:1], 0, 3)


def test_points_come_from_the_whole_set_and_lie_in_their_bins():
    levels = torch.arange(1000).view(-1, 1, 1, 1) % 17
    data = Data("x", levels.to(torch.uint8), levels[:1].to(torch.uint8), 17, None, None)
    centres = error_table.points(data, 0, centres=True).flatten()
    spread = error_table.points(data, 0, centres=False).flatten()
    rows = torch.linspace(0, 999, error_table.IMAGES).round().long()
    torch.testing.assert_close(centres, (2 * (rows % 17) + 1).double() / 17 - 1)
    assert ((spread - centres).abs() <= 1 / 17).all()
    assert (spread - centres).std() == pytest.approx(2 / 17 / 12**0.5, rel=0.15)


# ---- plans


def config_of(name, **changes):
    import importlib

    flat = request.flatten(
        importlib.import_module(f"scoreflow.configs.{name}").get_config().to_dict()
    )
    flat |= {key.replace("__", "."): value for key, value in changes.items()}
    return resolve.resolve(flat, name)


TOY = {"model__width": 8, "sde__num_steps": 50}
SHORT = {**TOY, "sampling__steps": 9}
DIGITS = {"model__channels": 8, "model__num_groups": 4, "model__blocks": 1}


def test_the_errors_are_measured_once_for_a_network_and_a_question(tmp_path, monkeypatch):
    config = config_of(
        "toy", sampling__variance="optimal", sampling__grid="least_cost", sampling__steps=6, **TOY
    )
    made, calls, met = experiment(config, CPU), [], []
    plain = error_table.measure

    def counted(*arguments):
        assert met, "the others would wait for this without having met"
        calls.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(error_table, "measure", counted)
    shard = distributed.shard
    monkeypatch.setattr(distributed, "shard", lambda: met.append(True) or shard())
    with RunDir.create(tmp_path / "run", config.to_dict(), {}) as run:
        made.network.eval()
        drawn = [
            TrainedRun(run, made, loaded=(made.model, 0)).plan(name)
            for name in ("ancestral", "ancestral", "dpm", "ode")
        ]
        assert len(calls) == 1
        kept = run.read_result("moments")
        table = error_table.ErrorTable.of_result(made.model.sde, kept)
        assert kept["value"] > 0
        assert kept["standard_error"] > 0
        with torch.no_grad():
            next(made.network.parameters()).add_(0.1)
        TrainedRun(run, made, loaded=(made.model, 0)).plan("ancestral")
        assert len(calls) == 2
        (run.path / "results" / "moments.json").write_text("torn")
        TrainedRun(run, made, loaded=(made.model, 0)).plan("ancestral")
        assert len(calls) == 3
    sampler = drawn[0].sampler
    assert isinstance(sampler, Ancestral)
    t = torch.tensor([3.0, 44.0], dtype=F64)
    assert torch.equal(sampler.eps_error(t), table(t))
    best = least_cost(step_costs(made.model.sde, table), 6)
    assert torch.equal(drawn[0].times, best)
    assert torch.equal(drawn[2].times, best)


def test_what_needs_the_table():
    config = config_of("toy", sampling__variance="optimal", **SHORT)
    assert [needs_moments(config, n) for n in ("ancestral", "pc", "ddim", "ode")] == [
        True, True, False, False,
    ]  # fmt: skip
    config.sampling.predictor = "dpm"
    assert not needs_moments(config, "pc")
    config.sampling.grid = "least_cost"
    assert [needs_moments(config, n) for n in ("pc", "ddim", "ode")] == [True, True, False]


def test_pc_takes_any_predictor_and_its_grid():
    made = experiment(config_of("toy", **SHORT), CPU)
    for name in SAMPLERS:
        made.config.sampling.predictor = name
        if name in ("pc", "ode"):
            with pytest.raises(
                RequestError, match=r"sampling\.predictor must be one of ancestral"
            ):
                build_drawing(made.config, "pc", made.model, made.data)
            continue
        both = [build_drawing(made.config, n, made.model, made.data) for n in ("pc", name)]
        assert isinstance(both[0].sampler, PredictorCorrector)
        assert both[0].sampler.predictor == both[1].sampler
        assert torch.equal(both[0].times, both[1].times)
    made.config.sampling.predictor = "dpm"
    made.config.sampling.order = 3
    pc = build_drawing(made.config, "pc", made.model, made.data).sampler
    assert pc.predictor == DPMSolver(3)


def test_a_dynamic_threshold_takes_the_place_of_clipping_on_images_alone():
    made = experiment(config_of("digits", **DIGITS), CPU)

    def denoiser():
        return build_drawing(made.config, "ddim", made.model, made.data).denoiser

    assert isinstance(denoiser(), Clipped)
    made.config.sampling.dynamic_threshold = 0.9
    assert denoiser() == Thresholded(made.model, 0.9)
    made.config.sampling.clip = False
    assert denoiser() == Thresholded(made.model, 0.9)
    made.config.sampling.dynamic_threshold = 0.0
    assert denoiser() is made.model
    with pytest.raises(RequestError, match=r"sampling\.dynamic_threshold is for images"):
        experiment(config_of("toy", sampling__dynamic_threshold=0.9, **SHORT), CPU)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "score", "mean"])
@pytest.mark.parametrize("process", ["vp", "subvp", "ve"])
def test_every_sampler_draws_from_every_network(process, prediction):
    """By the config's names: each sampler and each predictor of pc, on its grid, is finite."""
    from scoreflow.samplers import sample

    config = config_of(
        "toy", sde__name=process, model__prediction=prediction, sampling__steps=4,
        sampling__tolerance=0.5, **TOY,
    )  # fmt: skip
    made = experiment(config, CPU)
    made.network.eval()
    cases = [(name, "ancestral") for name in SAMPLERS]
    cases += [("pc", name) for name in SAMPLERS if name not in ("pc", "ode", "ancestral")]
    for name, predictor in cases:
        made.config.sampling.predictor = predictor
        drawing = build_drawing(made.config, name, made.model, made.data)
        x = sample(
            drawing.sampler,
            drawing.denoiser,
            drawing.process or made.model.sde,
            drawing.times,
            Noise.of(0, 0, 2),
            (2,),
        )
        assert x.isfinite().all(), (name, predictor)
