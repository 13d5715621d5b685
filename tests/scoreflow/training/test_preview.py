"""A preview shows one noise and one question to the weights of any step."""

import copy
from dataclasses import replace

import pytest
import torch

from scoreflow.cli import command_line
from scoreflow.data.levels import points
from scoreflow.factory.assembly import experiment
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema import resolve
from scoreflow.sde.noise import Noise, Stream
from scoreflow.training.preview import APART, HELD_OUT, preview
from scoreflow.training_run import trainer_of


@pytest.fixture(scope="module")
def trainer():
    flags = {"model.channels": 8, "model.num_groups": 4, "model.blocks": 1}
    flags |= {"model.conditional": "true", "training.batch_size": 48}
    argv = ["run.py", "--mode=train", *(f"--config.{k}={v}" for k, v in flags.items())]
    config = resolve.training_config(command_line.parse(argv))
    return trainer_of(experiment(config, torch.device("cpu")))


def test_the_held_out_loss_is_the_mean_of_each_datum_alone(trainer):
    """Asked one by one, |eps_hat - eps|^2 written out."""
    model, data = trainer.model.with_network(trainer.ema.module), trainer.data
    errors = []
    for k in range(HELD_OUT):
        noise = Noise.of(trainer.seed, k, k + 1).at(APART)
        x_0 = points(data.test[k : k + 1], 17, noise, Stream.TRAIN_DEQUANTIZE).float()
        t = 1 + (noise.uniform(Stream.TRAIN_TIME) * model.sde.num_steps).floor()
        eps = noise.normal(Stream.TRAIN_EPS, (1, 8, 8)).float()
        x_t = model.sde.perturb(x_0, t, eps)
        with torch.no_grad():
            found = model.labelled(data.test_labels[k : k + 1])(x_t, t).eps
        errors.append((found - eps).square().mean())
    expected = torch.stack(errors).double().mean()
    assert preview(trainer).loss == pytest.approx(float(expected), rel=1e-4)


def test_it_is_a_function_of_the_weights_alone(trainer):
    state, before = torch.get_rng_state(), preview(trainer)
    assert torch.equal(torch.get_rng_state(), state)
    assert preview(trainer) == before
    trainer.advance(3)
    after = preview(trainer)
    assert after.picture != before.picture
    assert after.loss != before.loss


def test_held_out_data_of_a_class_without_training_data_are_left_out(trainer, monkeypatch):
    shown = copy.copy(trainer)
    data, known = trainer.data, trainer.data.train_labels != 9
    shown.data = replace(data, train=data.train[known], train_labels=data.train_labels[known])
    assert (shown.data.num_classes, shown.data.empty_classes) == (10, (9,))
    few = data.test_labels[:HELD_OUT] != 9
    others = copy.copy(trainer)
    others.data = replace(
        data, test=data.test[:HELD_OUT][few], test_labels=data.test_labels[:HELD_OUT][few]
    )
    assert preview(shown).loss == preview(others).loss != preview(trainer).loss
    called = []
    monkeypatch.setattr(ScoreModel, "labelled", lambda self, k: called.append(k) or self)
    preview(shown)
    assert called[0].tolist() == [*range(9), *range(7)]  # 16 samples, 9 is not drawn
