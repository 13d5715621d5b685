"""The classifier of noisy images on a GPU: trained, asked and guided by without a wait a step."""

import pytest
import torch

from scoreflow.configs import default
from scoreflow.factory.training import build_objective
from scoreflow.generation.classes import Classes
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.plan import Guidance, SamplingPlan
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.samplers import Ancestral, grid, sample
from scoreflow.sde.noise import Noise
from scoreflow.training.classifier_file import load_classifier, save_classifier
from scoreflow.training.classifier_trainer import measure, train_classifier
from scoreflow.training.settings import ClassifierSettings
from tests.device.modes import small

CPU = torch.device("cpu")
SHAPE = (1, small.SIDE, small.SIDE)
OBJECTIVE = build_objective(default.get_config())


def classifier(where):
    torch.manual_seed(1)
    network = Classifier(SHAPE, 2, 8).to(where).eval().requires_grad_(False)
    return NoisyClassifier(network, small.model(where).sde, 1.0)


def test_its_training_waits_once_an_interval(device, seen):
    def trained(where, steps):
        data, model = small.data(where), small.model(where)
        settings = ClassifierSettings(steps, 4, 1e-3, 8, True, "uniform", 0)
        seen.waits.clear()
        return train_classifier(data, model.sde, OBJECTIVE, settings)

    mine = trained(device, 1)
    waits = len(seen.waits)
    trained(device, 3)
    assert len(seen.waits) == waits, seen.waits
    its = trained(CPU, 1)
    for one, other in zip(mine.network.parameters(), its.network.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), other.data, rtol=1e-4, atol=1e-5)


def test_what_it_is_measured_as_is_the_cpus(device, seen):
    mine, its = (measure(classifier(where), small.data(where), 0) for where in (device, CPU))
    for one, other in zip(mine.pop("times"), its.pop("times"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert mine["value"] == its["value"]


def test_it_is_asked_without_a_wait(device, seen):
    model, x = classifier(device), small.levels(device, 3).double() / 9 - 1
    times = torch.tensor(7.0, dtype=torch.float64), torch.full((3,), 7.0).double().to(device)
    model.log_probs(x, times[0])
    seen.waits.clear()
    shared, each = (model.log_probs(x, t) for t in times)
    assert seen.waits == []
    assert torch.equal(shared.cpu(), each.cpu())
    expected = classifier(CPU).log_probs(x.cpu(), times[0])
    torch.testing.assert_close(shared.cpu(), expected, rtol=1e-5, atol=1e-6)


def test_no_step_that_it_guides_waits(device, seen):
    ends = []

    def drawn(where):
        ends.clear()
        model = small.model(where)
        guided = Guidance(1, 2.0, "classifier").denoiser(model, classifier(where))
        noise, times = Noise.of(0, 0, 2, where), grid("uniform", model.sde, 3)
        args = Ancestral("beta"), guided, model.sde, times, noise, SHAPE
        return sample(*args, lambda _k, _x: ends.append(len(seen.waits)))

    expected, found = drawn(CPU), drawn(device)
    assert ends[0] == ends[-1], seen.waits
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_classes_of_its_own_for_each_sample(device, seen):
    def drawn(where):
        model = small.model(where)
        guidance = Guidance(-1, 1.5, "classifier", Classes((0, 1)))
        guided = guidance.denoiser(model, classifier(where))
        times, classes = grid("uniform", model.sde, 2), guidance.classes
        plan = SamplingPlan(Ancestral("beta"), times, guided, classes=classes, by_class=guided)
        return draw_samples(plan, model.sde, Noise.of(0, 0, 3, where), SHAPE, 2, "ancestral")

    torch.testing.assert_close(drawn(device).cpu(), drawn(CPU), rtol=1e-4, atol=1e-5)


def test_its_file_comes_to_the_device_in_one_copy(tmp_path, device, seen):
    model = classifier(CPU)
    save_classifier(tmp_path, model)
    seen.waits.clear()
    found = load_classifier(tmp_path, model.sde, 1.0, device)
    assert len([wait for wait in seen.waits if "transfer" in wait]) == 1
    assert len(seen.waits) <= 3, seen.waits
    for one, other in zip(found.network.parameters(), model.network.parameters(), strict=True):
        assert one.device == device
        assert not one.requires_grad
        assert torch.equal(one.cpu(), other)
