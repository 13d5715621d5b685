"""The table of orders: what a method states is what is measured, and chance is no slope."""

import importlib.util
import re
import textwrap

import pytest
import torch

from scoreflow import samplers
from scoreflow.data.toy import distribution
from scoreflow.evaluation import convergence_order
from scoreflow.samplers import DDIM, DEIS, Ancestral, DPMSolver, Heun, UniPC
from scoreflow.sde.processes.vp import VPSDE

SDE = VPSDE.log_linear(1000, 5e-3, 5e-3)


@pytest.mark.parametrize(
    ("sampler", "stated"),
    [
        (DDIM(), 1),
        (DPMSolver(2), 2),
        (UniPC(2), 3),
        pytest.param(Heun(), 2, marks=pytest.mark.slow),
        pytest.param(DPMSolver(3), 3, marks=pytest.mark.slow),
    ],
)
def test_the_order_of_a_flow_is_as_stated(sampler, stated, monkeypatch):
    monkeypatch.setattr(convergence_order, "STEPS", (128, 256, 512))
    monkeypatch.setattr(convergence_order, "POINTS", 40)
    row = convergence_order.measured_order("it", sampler, distribution(), SDE)
    assert (row["kind"], row["stated"]) == ("flow", stated)
    assert row["order"] == pytest.approx(stated, abs=0.15)
    assert 0 < row["order_error"] < 0.1
    assert f"stated {stated}: {row['order']:.2f}" in convergence_order.text(row)


def test_the_sampler_of_a_strangers_file_is_measured(tmp_path, monkeypatch):
    """The file in the docstring of `scoreflow.samplers`, written out, imported and measured."""
    block = re.search(r"(    from dataclasses.*?)\n\n`sample", samplers.__doc__, re.DOTALL)[1]
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(block))
    spec = importlib.util.spec_from_file_location("mine", path)
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    assert isinstance(mine.Euler(), samplers.Sampler)
    monkeypatch.setattr(convergence_order, "STEPS", (128, 256, 512))
    monkeypatch.setattr(convergence_order, "POINTS", 40)
    row = convergence_order.measured_order("euler", mine.Euler(), distribution(), SDE)
    assert (row["kind"], row["stated"]) == ("flow", 1)
    assert row["order"] == pytest.approx(1, abs=0.15)
    assert "euler" in convergence_order.table([row])


def test_ancestral_sampling_tends_to_the_law_at_order_one(monkeypatch):
    monkeypatch.setattr(convergence_order, "WEAK_STEPS", (32, 64, 128))
    row = convergence_order.measured_order("ancestral", Ancestral("beta"), distribution(), SDE)
    assert (row["kind"], row["stated"]) == ("law", None)
    assert row["order"] == pytest.approx(1, abs=4 * row["order_error"] + 0.15)


def test_an_error_that_chance_hides_has_no_order(monkeypatch):
    monkeypatch.setattr(convergence_order, "WEAK_POINTS", 50)
    row = convergence_order.measured_order("ancestral", Ancestral("beta"), distribution(), SDE)
    assert row["order"] is None
    assert "not measured" in convergence_order.text(row)
    assert "ancestral" in convergence_order.table([row])


def test_slope_of_a_power():
    steps = torch.tensor([10, 20, 80])
    assert convergence_order.slope(steps, 7.0 / steps.double() ** 2.5) == pytest.approx(2.5)


def test_what_is_stochastic_states_no_order_of_a_flow():
    chance = (DDIM(0.5), Heun(0.1), DPMSolver(2, stochastic=True), Ancestral("beta"))
    assert [convergence_order.stated_order(sampler) for sampler in chance] == [None] * 4
    assert convergence_order.stated_order(DEIS(3)) == 3
