"""Editing as a function of its plan: what it finds, its words and its tiles; no run, no config."""

import pytest
import torch

from scoreflow.data.levels import centres
from scoreflow.generation.edit_plan import EditPlan
from scoreflow.generation.edit_summary import MOST_COLUMNS, caption, describe, tiles
from scoreflow.generation.editing import edit
from scoreflow.generation.plan import SamplingPlan
from scoreflow.samplers import (
    Ancestral,
    ChannelMean,
    Clipped,
    Measurement,
    ProbabilityFlow,
    grid,
)
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.processes.vp import VPSDE

SDE = VPSDE.log_linear(50, 1e-3, 5e-3)
SHAPE = (3, 2, 2)


def exact():
    return gaussian(torch.zeros(12), 0.1 * torch.eye(12)).denoiser(SDE)


def given(n):
    return torch.randint(256, (n, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()


def flow_plan():
    flow = ProbabilityFlow(1.0, 1e-6)
    return SamplingPlan(flow, flow.times(50), exact())


def test_a_reconstruction_comes_back_and_its_tiles_are_three_rows():
    levels = given(MOST_COLUMNS + 2)
    plan = EditPlan("reconstruct", levels, [str(k) for k in range(12)], 12, 256, batch_size=5)
    edited = edit(plan, flow_plan(), SDE)
    assert torch.equal(edited.levels, levels)
    tolerances = [row["tolerance"] for row in edited.result["tolerances"]]
    assert tolerances == pytest.approx([1e-4, 1e-5, 1e-6])
    assert edited.result["most"] < 1e-4
    shown, columns = tiles(edited)
    assert columns == MOST_COLUMNS
    assert torch.equal(shown[:columns], levels[:columns])
    assert torch.equal(shown[columns:-columns], edited.shown[:columns])
    assert describe(edited).startswith("reconstruct: 12 images, off by")
    assert "at tolerance 1e-06" in describe(edited)


def test_an_interpolation_has_its_ends_outside():
    plan = EditPlan("interpolate", given(2), ["a", "b"], 5, 256)
    edited = edit(plan, flow_plan(), SDE)
    shown, columns = tiles(edited)
    assert (len(shown), columns) == (7, 7)
    assert torch.equal(shown[[0, -1]], plan.given)
    assert torch.equal(edited.levels[[0, -1]], plan.given)
    assert edited.result["value"] < 1e-3
    assert "5 points" in describe(edited)


@pytest.mark.parametrize(
    ("itself", "words", "count"),
    [(False, "Given, measured and drawn", 1 + 1 + 4), (True, "Measured and drawn", 1 + 4)],
)
def test_a_measured_task_shows_what_was_measured(itself, words, count):
    levels, operator = given(1), ChannelMean(3)
    y = operator.apply(centres(levels, 256))
    plan = EditPlan(
        "colorize",
        levels[:0] if itself else levels,
        ["it"],
        4,
        256,
        Measurement(operator, y, 0.05),
        "mmps",
        iterations=4,
        sampler="ancestral",
    )
    sampling = SamplingPlan(Ancestral("posterior"), grid("uniform", SDE, 50), Clipped(exact()))
    edited = edit(plan, sampling, SDE)
    assert caption(edited) == words
    assert len(tiles(edited)[0]) == count
    assert edited.result["nfe"] == 50
    assert edited.result["jacobian_products"] > 0
    assert ("to_given_value" in edited.result) == (not itself)
    assert describe(edited).startswith("colorize by mmps and ancestral: 4 images, misfit")


def test_a_variation_starts_at_its_share_of_the_times():
    plan = EditPlan("vary", given(1), ["it"], 3, 256, strength=0.4, sampler="ancestral")
    sampling = SamplingPlan(Ancestral("posterior"), grid("uniform", SDE, 50), exact())
    edited = edit(plan, sampling, SDE)
    assert edited.result["t_start"] == 20
    assert edited.result["nfe"] == 20
    assert caption(edited) == "Given and drawn"
    assert " from t = 20 and ancestral: 3 images" in describe(edited)
