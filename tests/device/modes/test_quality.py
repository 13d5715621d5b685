"""Pictures and numbers about samples on a GPU: the CPU's, and no mixture of devices."""

import io

import pytest
import torch
from PIL import Image

from scoreflow.data import toy
from scoreflow.data.dataset import Data
from scoreflow.evaluation import guidance_sweep, sample_summary
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.generation import error_table, trajectory
from scoreflow.generation.classes import Classes
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.plan import Guidance, SamplingPlan
from scoreflow.samplers import Ancestral, ProbabilityFlow, grid
from scoreflow.sde.noise import Noise, Stream
from tests.device.modes import small

CPU = torch.device("cpu")
SHAPE = (1, small.SIDE, small.SIDE)


def equal(mine, its):
    """Whether two results of nested dicts say the same, but for what the seconds were."""
    assert mine.keys() == its.keys()
    for key, value in its.items():
        if isinstance(value, dict):
            equal(mine[key], value)
        elif isinstance(value, float):
            assert mine[key] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), key
        elif key not in ("seconds", "images_per_second"):
            assert mine[key] == value, key


def test_metrics_of_images_are_the_cpus(device, seen):
    def found(where):
        data = small.data(where, 12)
        quality = SampleQuality(
            data,
            labels=lambda x: x.flatten(1)[:, 0].long() % 2,
            features=lambda x: x.flatten(1).double()[:, :2],
        )
        return quality.of_samples(small.levels(where, 12).double() / 9 - 0.9)

    equal(found(device), found(CPU))


def test_metrics_of_vectors_are_the_cpus(device, seen):
    def found(where):
        truth = toy.distribution()
        points = truth.sample(Noise.of(1, 0, 24)).float().to(where)
        data = Data("toy", points[:12], points[12:], None, None, None)
        quality = SampleQuality(data, truth)
        return quality.of_samples(points[6:18]) | quality.of_test_data(8)

    equal(found(device), found(CPU))


@pytest.mark.parametrize("label", [-1, 1])
def test_what_samples_are_worth_is_the_cpus(label, device, seen):
    def found(where):
        data, values = small.data(where, 24), small.levels(where, 12)
        right = guidance_sweep.right_classes(values, torch.arange(12) % 2, data)
        return sample_summary.value_metrics(values, data, label) | right

    equal(found(device), found(CPU))


PLANS = {
    "ancestral": lambda model: SamplingPlan(
        Ancestral("beta"), grid("uniform", model.sde, 4), model
    ),
    "classes": lambda model: _of_classes(model),
    "flow": lambda model: SamplingPlan(
        ProbabilityFlow(1.0, 1e-2), ProbabilityFlow(1.0).times(small.N), model
    ),
}


def _of_classes(model):
    guidance = Guidance(-1, 2.0, "network", Classes((0, 1)))
    guided = guidance.denoiser(model, None)
    times = grid("uniform", model.sde, 4)
    return SamplingPlan(
        Ancestral("beta"), times, guided, classes=guidance.classes, by_class=guided
    )


@pytest.mark.parametrize(
    "name", ["ancestral", "classes", pytest.param("flow", marks=pytest.mark.slow)]
)
def test_the_way_to_samples_is_the_cpus(name, device, seen):
    def found(where):
        model, data = small.model(where, num_classes=2), small.data(where)
        plan, noise = PLANS[name](model), Noise.of(0, 0, 3, where)
        last = draw_samples(plan, model.sde, noise, SHAPE, 2, name)
        return trajectory.follow(plan, model.sde, noise, data, last), data

    (mine, data), (its, _) = found(device), found(CPU)
    assert mine.times == pytest.approx(its.times)
    for one, other in zip(mine.values, its.values, strict=True):
        assert torch.equal(one.cpu(), other)
    assert Image.open(io.BytesIO(trajectory.strip(mine, data))).height > small.SIDE
    assert Image.open(io.BytesIO(trajectory.animation(mine, data))).n_frames > 2


def test_errors_by_time_are_the_cpus(device, seen):
    def found(where):
        model, data = small.model(where), small.data(where)
        x_0 = error_table.points(data, 0, centres=False)
        return error_table.measure(model, model.sde, 1.0, x_0, 0, 4).as_result()

    equal(found(device), found(CPU))


def test_a_uniform_draw_of_classes_is_the_cpus(device, seen):
    classes = Classes((0, 1, 4), (3, 1, 2), seed=7)
    index = Noise.of(0, 0, 9).uniform(Stream.DATA, (1,)).argsort(0)[:, 0]
    assert torch.equal(classes.of(index.to(device)).cpu(), classes.of(index))
