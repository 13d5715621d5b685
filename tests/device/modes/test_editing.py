"""Editing on a GPU: each task and method has the CPU's images, and no step waits for it."""

import pytest
import torch

from scoreflow.data.levels import centres
from scoreflow.generation.edit_plan import EditPlan
from scoreflow.generation.editing import edit
from scoreflow.generation.plan import SamplingPlan
from scoreflow.runtime.gpu.transfer import moved
from scoreflow.samplers import (
    Ancestral,
    BlockMean,
    ChannelMean,
    Counted,
    Masked,
    Measurement,
    ProbabilityFlow,
    grid,
    sample,
)
from scoreflow.samplers.editing.conjugate_gradients import conjugate_gradients
from scoreflow.samplers.editing.ddim_inversion import invert
from scoreflow.samplers.editing.linear_operators import middle_square
from scoreflow.sde.noise import Noise, Stream
from tests.device.modes import small

CPU = torch.device("cpu")
CHANNELS = 3
SHAPE = (CHANNELS, small.SIDE, small.SIDE)
OPERATORS = {
    "inpaint": lambda: Masked(middle_square(SHAPE)),
    "colorize": lambda: ChannelMean(CHANNELS),
    "superresolve": lambda: BlockMean(2),
}


def measurement(where, task):
    """Of a given image, as the factory makes it: a mask comes from a file, on the CPU."""
    operator = OPERATORS[task]()
    given = small.levels(where, 1, CHANNELS)
    return given, Measurement(operator, operator.apply(centres(given, small.NUM_LEVELS)), 0.1)


@pytest.mark.parametrize("method", ["mmps", "dps", "replace"])
@pytest.mark.parametrize("task", OPERATORS)
def test_no_step_towards_a_measurement_waits(task, method, device, seen):
    ends = []

    def drawn(where):
        ends.clear()
        model, (given, measured) = small.model(where, CHANNELS), measurement(where, task)
        plan = EditPlan(
            task, given, [], 2, small.NUM_LEVELS, measured, method, weight=1.0, iterations=3
        )
        sampling = SamplingPlan(Ancestral("beta"), grid("uniform", model.sde, 3), model)
        sampling, _ = plan.conditioned(sampling, Counted(model))
        noise = Noise.of(0, 0, 2, where)
        args = sampling.sampler, sampling.denoiser, model.sde, sampling.times, noise, SHAPE
        return sample(*args, lambda _k, _x: ends.append(len(seen.waits)))

    expected = drawn(CPU)
    found = drawn(device)
    assert ends[0] == ends[-1], seen.waits[ends[0] :]
    assert found.device == device
    assert torch.equal(found.cpu(), expected)


TASKS = {
    "inpaint": {"method": "mmps", "iterations": 2},
    "vary": {"strength": 0.5},
    "reconstruct": {},
    "interpolate": {},
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_cpus_result(task, device, seen):
    def done(where):
        model = small.model(where, CHANNELS)
        images, measured = small.levels(where, 2, CHANNELS), None
        if task == "inpaint":
            images, measured = measurement(where, task)
        elif task == "vary":
            images = images[:1]
        plan = EditPlan(task, images, ["a", "b"], 2, small.NUM_LEVELS, measured, **TASKS[task])
        if task in ("reconstruct", "interpolate"):
            flow = ProbabilityFlow(1.0, 1e-2)
            sampling = SamplingPlan(flow, flow.times(small.N), model)
        else:
            sampling = SamplingPlan(Ancestral("beta"), grid("uniform", model.sde, 4), model)
        return edit(plan, sampling, model.sde)

    expected, found = done(CPU), done(device)
    assert found.levels.device == device
    assert torch.equal(found.levels.cpu(), expected.levels)
    assert found.result["value"] == pytest.approx(expected.result["value"], rel=1e-6, abs=1e-9)
    assert found.result["nfe"] == expected.result["nfe"]


def test_ddims_inversion_does_not_wait(device, seen):
    times = torch.tensor([1.0, 8.0, 20.0], dtype=torch.float64)

    def inverted(where):
        model = small.model(where)
        x_0 = centres(small.levels(where, 2), small.NUM_LEVELS)
        seen.waits.clear()
        return invert(model, model.sde, times, x_0)

    expected, found = inverted(CPU), inverted(device)
    assert seen.waits == []
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("iterations", [3, 4, 12])
def test_conjugate_gradients_look_for_what_is_left_after_4_8_and_16(iterations, device, seen):
    """Two rows of different conditions: by 8 iterations both rest, and a GPU goes on to 12."""
    scales = torch.linspace(1, 3, 6, dtype=torch.float64)
    b = Noise.of(1, 0, 2).normal(Stream.DATA, (6,))

    def solved(where):
        asked, own = [], moved(scales, where)

        def matrix(x):
            asked.append(len(x))
            return own * x

        right = moved(b, where)
        seen.waits.clear()
        return conjugate_gradients(matrix, right, iterations), len(asked)

    (expected, fewer), (found, asked) = solved(CPU), solved(device)
    assert fewer == min(iterations, 6)
    assert asked == min(iterations, 8)
    assert len(seen.waits) == {3: 0, 4: 0, 12: 2}[iterations]
    assert torch.equal(found.cpu(), expected)


def test_a_masks_places_are_counted_once(device, seen):
    known = Masked(middle_square(SHAPE))
    x = small.levels(device, 2, CHANNELS).double()
    y = known.apply(x)
    seen.waits.clear()
    again = known.adjoint(known.apply(x))
    assert seen.waits == []
    assert torch.equal(known.apply(x.cpu()), y.cpu())
    assert torch.equal(again.cpu(), x.cpu() * middle_square(SHAPE))
