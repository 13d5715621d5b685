"""The classifier of noisy images against the exact posterior, and its file."""

import contextlib
import json
import math
from dataclasses import replace

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.data.loading import load_digits
from scoreflow.data.toy import load as load_toy
from scoreflow.errors import RequestError
from scoreflow.evaluation.features import clean_features
from scoreflow.losses.objective import Objective
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.report.blocks import Table
from scoreflow.report.sections.training import _classifier as section_of
from scoreflow.sde import VPSDE, Noise, RectifiedSDE, Stream
from scoreflow.sde.analytic import LevelGrid
from scoreflow.storage.run_folder import RunDir
from scoreflow.training.classifier_file import load_classifier, save_classifier
from scoreflow.training.classifier_trainer import measure, train_classifier
from scoreflow.training.settings import ClassifierSettings

SDE = VPSDE.log_linear(100, 0.05)
OBJECTIVE = Objective("simple", "integer", 1.0, True, "beta", 1e-3, 5.0, 1.0, 1.0)
SETTINGS = ClassifierSettings(300, 64, 3e-3, 16, False, "uniform", 0)
DARK = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
CLASSES = (LevelGrid(DARK, 16), LevelGrid(DARK.flip(0), 16))
"""Two classes of 4x4 images whose noisy laws are closed forms: darker pixels, and brighter."""


def two_classes(count=4096):
    """Images of both, in equal numbers."""

    def part(seed):
        levels = [law.levels(Noise.of(seed + k, 0, count // 2)) for k, law in enumerate(CLASSES)]
        labels = torch.arange(2).repeat_interleave(count // 2)
        return torch.cat(levels).view(-1, 1, 4, 4).to(torch.uint8), labels

    (train, train_labels), (test, test_labels) = part(0), part(10)
    return Data("two classes", train, test, 4, train_labels, test_labels)


def exact(x_t, t):
    """Log p(y | x_t) by Bayes' rule."""
    scales = SDE.alpha(t), SDE.sigma(t)
    joint = [law.log_prob(x_t.double().flatten(1), *scales) for law in CLASSES]
    return torch.stack(joint, 1).log_softmax(1)


@pytest.fixture(scope="module")
def trained():
    return train_classifier(two_classes(), SDE, OBJECTIVE, SETTINGS)


def test_it_comes_near_the_exact_posterior_at_every_time(trained):
    """The mean of log p - log q under p is what it lacks, in nats; knowing nothing lacks more."""
    data = two_classes(1024)
    found = measure(trained, data, 0)
    assert found["times"][0]["t"] == 1
    for k, row in enumerate(found["times"]):
        t = torch.tensor(float(row["t"]), dtype=torch.float64)
        noise = Noise.of(7, 0, 2048).at(k)
        label = torch.arange(2).repeat_interleave(1024)
        halves = torch.arange(2048).chunk(2)
        clean = torch.cat(
            [law.sample(noise.rows(h)) for law, h in zip(CLASSES, halves, strict=True)]
        )
        x_t = SDE.perturb(clean.view(-1, 1, 4, 4), t, noise.normal(Stream.DATA, (1, 4, 4)))
        true = exact(x_t, t)
        lacking = (true.exp() * (true - trained.log_probs(x_t, t))).sum(1).mean()
        knowing_nothing = (true.exp() * (true + math.log(2))).sum(1).mean()
        assert -1e-6 < lacking < 0.01 + 0.1 * knowing_nothing
        assert row["cross_entropy"] == pytest.approx(
            float(-(true.exp() * true).sum(1).mean()), abs=0.02 + 5 * row["cross_entropy_error"]
        )
        best = float((true.argmax(1) == label).double().mean())
        assert row["accuracy"] == pytest.approx(best, abs=0.02 + 4 * row["standard_error"])
    assert found["value"] == found["times"][0]["accuracy"]
    assert found["value"] > found["times"][-1]["accuracy"]


def test_of_noise_alone_there_is_no_log_snr():
    """At N of the rectified path: no number of the result is infinite, and the page says so."""
    torch.manual_seed(0)
    model = NoisyClassifier(Classifier((1, 4, 4), 2, 8), RectifiedSDE(100), 1.0)
    found = measure(model, two_classes(64), 0)
    *others, last = found["times"]
    assert last["t"] == 100
    assert last["log_snr"] is None
    assert all(math.isfinite(row["log_snr"]) for row in others)
    json.dumps(found, allow_nan=False)
    section = section_of({**found, "seconds": 1.0})
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[1].text for row in table.rows][-1] == "noise alone"


def test_the_same_seed_trains_the_same_classifier():
    short = replace(SETTINGS, num_steps=3)
    data = two_classes(64)
    one, two, other = (
        train_classifier(data, SDE, OBJECTIVE, each).network.state_dict()
        for each in (short, short, replace(short, seed=1))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_an_image_does_not_depend_on_its_mates(trained):
    x = Noise.of(0, 0, 6).normal(Stream.DATA, (1, 4, 4))
    t = torch.linspace(1, 100, 6, dtype=torch.float64)
    together = trained.log_probs(x, t)
    alone = torch.cat([trained.log_probs(x[k : k + 1], t[k]) for k in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.dtype == torch.float64
    assert torch.equal(trained.of(1)(x, t), together[:, 1])


def test_features_are_what_the_last_layer_sees(trained):
    values, t = two_classes(64).test, torch.tensor(1.0, dtype=torch.float64)
    features = clean_features(trained, values, 4, batch_size=10)
    clean = SDE.alpha(t) * (2 * (values.double() + 0.5) / 4 - 1)
    logits = trained.network.head(features.float())
    torch.testing.assert_close(logits.log_softmax(1), trained.log_probs(clean, t).float())
    assert len(features) == len(values)


@pytest.mark.parametrize(
    ("shape", "levels", "features"),
    [((1, 8, 8), 2, 32), ((1, 28, 28), 3, 64), ((3, 32, 32), 4, 64), ((1, 9, 9), 1, 16)],
)
def test_sizes_are_halved_while_they_can_be(shape, levels, features):
    network = Classifier(shape, 10, 16)
    assert len(network.blocks) == levels
    assert network.features(torch.zeros(2, *shape), torch.zeros(2)).shape == (2, features)
    with pytest.raises(ValueError, match="x must be"):
        network(torch.zeros(2, 1, 5, 5), torch.zeros(2))


def test_its_file_gives_it_back_bit_for_bit(trained, tmp_path):
    x, t = Noise.of(0, 0, 6).normal(Stream.DATA, (1, 4, 4)), torch.tensor(5.0, dtype=torch.float64)
    with RunDir.create(tmp_path, {}, {}) as run:
        with pytest.raises(RequestError, match=r"no classifier\.pt: train one with --mode class"):
            load_classifier(run.path, SDE, 1.0)
        save_classifier(run.path, NoisyClassifier(Classifier((1, 4, 4), 2, 8), SDE, 1.0))
        save_classifier(run.path, trained)  # in its place
        back = load_classifier(run.path, SDE, 1.0)
        assert torch.equal(back.log_probs(x, t), trained.log_probs(x, t))
        path = tmp_path / "classifier.pt"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(RequestError, match=r"is damaged .*does not fit its hash"):
            load_classifier(run.path, SDE, 1.0)


def test_a_state_that_replaces_another_is_never_between_them(tmp_path, monkeypatch):
    """Killed before any of its writes, either the old one or the new one loads."""
    from scoreflow.storage.checkpoints import states

    path, writes, kept = tmp_path / "it.pt", [], states.write_atomic

    def killed(at):
        def write(*where):
            writes.append(where)
            if len(writes) == at:
                raise KeyboardInterrupt
            kept(*where)

        return write

    states.write_state(path, {"step": 0})
    for at, then in ((1, 0), (2, 0), (3, 1), (4, 2)):
        writes.clear()
        monkeypatch.setattr(states, "write_atomic", killed(at))
        with contextlib.suppress(KeyboardInterrupt):
            states.write_state(path, {"step": at - 2})
        monkeypatch.setattr(states, "write_atomic", kept)
        found = states.read_state(path, "cpu")
        assert found == {"step": then}
        states.write_state(path, found)


def test_data_without_labels_are_refused():
    for data in (load_toy(), replace(load_digits(), train_labels=None, test_labels=None)):
        with pytest.raises(RequestError, match="needs images with labels"):
            train_classifier(data, SDE, OBJECTIVE, SETTINGS)
    data = two_classes(64)
    with pytest.raises(RequestError, match=r"got 4 classes, no training data of \[3\]"):
        measure(None, replace(data, test_labels=data.test_labels * 3), 0)
