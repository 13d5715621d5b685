"""Asking for a class: what is refused, what is built, and that the class asked for is drawn."""

import importlib
import json

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.configs import default, digits
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.evaluation.sample_summary import draw
from scoreflow.factory import assembly
from scoreflow.factory.model import build_model
from scoreflow.factory.sampling import build_drawing
from scoreflow.generation import trajectory
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import ClassifierGuided, Clipped, Guided
from scoreflow.schema import request, resolve
from scoreflow.storage.run_folder import RunDir
from scoreflow.training_run import trainer_of


def built(made, trainer):
    return build_model(made.config, trainer.ema.module, made.model.sde)


def guided_drawing(experiment, name, model, label, weight, steps=0):
    """The config's drawing with another class and weight."""
    config = ConfigDict(experiment.config.to_dict())
    config.sampling.label, config.sampling.guidance = label, float(weight)
    config.sampling.steps = steps or config.sampling.steps
    return build_drawing(config, name, model, experiment.data)


CPU = torch.device("cpu")
TINY = {
    "model.channels": 8,
    "model.num_groups": 4,
    "model.multipliers": (1, 2),
    "model.blocks": 1,
    "model.attention_sizes": (),
    "model.dropout": 0.0,
    "model.prediction": "v",
    "sde.schedule": "log_linear",
    "training.log_every": 10,
    "training.warmup_steps": 5,
    "sampling.num_images": 16,
    "sampling.steps": 4,
    "sampling.tolerance": 0.5,
    "likelihood.num_images": 1,
    "likelihood.nodes": 8,
}


def config_of(**changes):
    flat = request.flatten(default.get_config().to_dict()) | TINY
    return resolve.resolve(flat | {k.replace("__", "."): v for k, v in changes.items()}, "test")


def experiment(training=False, **changes):
    return assembly.experiment(config_of(**changes), CPU, training)


# ---- refused, in one line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling__guidance": 2.0}, "needs a class, --config.sampling.label=K"),
        ({"sampling__label": 10}, r"label must lie in 0\.\.9 \(-1 for none\), got 10"),
        ({"sampling__label": 3, "sampling__guide": "netwrok"}, "did you mean 'network'"),
        ({"sampling__label": 3, "sampling__guide": "network"}, "trained with model.conditional"),
        (
            {"sampling__label": 0, "data__name": "toy", "model__name": "mlp"},
            "needs images with labels, and toy has none",
        ),
        (
            {"model__conditional": True, "data__name": "toy", "model__name": "mlp"},
            "model.conditional needs model.name = unet and data with labels, got mlp on toy",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(changes, message):
    with pytest.raises(RequestError, match=message):
        experiment(**changes)


def test_a_training_cannot_end_with_samples_of_a_classifier_to_come():
    with pytest.raises(RequestError, match="leave the label to --mode sample"):
        experiment(training=True, sampling__label=3)
    experiment(training=True, sampling__label=3, model__conditional=True)


# ---- built


def drawn_by(**changes):
    """The Denoiser of ddim, out of its clipping, the model and a classifier."""
    made = experiment(**changes)
    classifier = NoisyClassifier(Classifier((1, 8, 8), 10, 8), made.model.sde, 1.0)
    drawing = build_drawing(made.config, "ddim", made.model, made.data, classifier)
    assert isinstance(drawing.denoiser, Clipped)
    return drawing.denoiser.denoiser, made.model, drawing


def test_a_network_that_knows_classes_is_its_own_guide():
    conditional = {"model__conditional": True}
    denoiser, model, drawing = drawn_by(**conditional)
    assert denoiser is model
    assert drawing.label == -1
    denoiser, model, drawing = drawn_by(**conditional, sampling__label=3)
    assert isinstance(denoiser, ScoreModel)
    assert denoiser.label == drawing.label == 3
    denoiser, model, _ = drawn_by(**conditional, sampling__label=3, sampling__guidance=2.5)
    assert isinstance(denoiser, Guided)
    assert (denoiser.conditional.label, denoiser.unconditional, denoiser.weight) == (3, model, 2.5)
    denoiser, model, _ = drawn_by(**conditional, sampling__label=3, sampling__guidance=0.0)
    assert denoiser is model
    denoiser, model, _ = drawn_by(**conditional, sampling__label=3, sampling__guide="classifier")
    assert isinstance(denoiser, ClassifierGuided)
    assert denoiser.denoiser is model


def test_one_that_does_not_needs_a_classifier():
    denoiser, model, _ = drawn_by(sampling__label=3, sampling__guidance=2.0)
    assert isinstance(denoiser, ClassifierGuided)
    assert (denoiser.denoiser, denoiser.weight) == (model, 2.0)
    made = experiment(sampling__label=3)
    with pytest.raises(RequestError, match="train one with --mode classifier"):
        build_drawing(made.config, "ddim", made.model, made.data)


def test_a_point_of_a_sweep_of_guidance():
    made = experiment(model__conditional=True)
    drawing = guided_drawing(made, "dpm", made.model, 7, 4.0, steps=6)
    guided = drawing.denoiser.denoiser
    assert (guided.conditional.label, guided.weight, drawing.label) == (7, 4.0, 7)
    assert len(drawing.times) == 7
    assert made.config.sampling.label == -1


def test_classes_add_one_tensor_and_to_a_network_without_them_nothing():
    plain, told = (experiment(model__conditional=c).network.state_dict() for c in (False, True))
    assert told.keys() - plain.keys() == {"embedding.classes.weight"}
    assert told["embedding.classes.weight"].shape == (11, 32)


# ---- drawn


def dark_and_bright(count=256):
    """Class 0 at levels 0..3 of 16, class 1 at 12..15: 4x4 images that nobody mixes up."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    levels = torch.randint(0, 4, (count, 1, 4, 4), generator=generator)
    images = (levels + 12 * labels[:, None, None, None]).to(torch.uint8)
    return Data("dark and bright", images, images[:64], 16, labels, labels[:64])


def test_a_small_training_draws_the_class_that_is_asked_for(monkeypatch):
    """And, asked for none, both."""
    data = dark_and_bright()
    module = importlib.import_module("scoreflow.factory.assembly")
    monkeypatch.setattr(module, "build_data", lambda *_: data)
    made = experiment(
        training=True,
        model__conditional=True,
        training__num_steps=150,
        training__checkpoint_every=10,
        training__batch_size=64,
        training__learning_rate=3e-3,
        training__label_dropout=0.3,
        training__ema_decay=0.98,
        sde__num_steps=200,
        sde__sigma_min=0.02,
        sampling__num_images=64,
        sampling__steps=10,
    )
    trainer = trainer_of(made)
    list(trainer.run())
    model, c = built(made, trainer), made.config.sampling

    def share_of_bright(label, weight):
        drawing = guided_drawing(made, "ddim", model, label, weight)
        found = draw(drawing, "ddim", model.sde, data, c.seed, c.num_images, c.batch_size)
        assert found.result["nfe"] == 10 * (1 if weight == 1 else 2)
        dark, bright = found.result["classes"]
        if label >= 0:
            assert found.result["of_class"]["rate"] == (dark, bright)[label] / 64
            assert found.result["of_class"]["rate_of_test_data"] == 1
        return bright / (dark + bright)

    for weight in (1.0, 2.0):
        assert share_of_bright(0, weight) < 0.05
        assert share_of_bright(1, weight) > 0.95
    assert 0.15 < share_of_bright(-1, 1.0) < 0.85


def command(mode, workdir, **overrides):
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return ["run.py", f"--mode={mode}", "--device=cpu", f"--workdir={workdir}", *flags]


def test_from_the_command_line(tmp_path, capsys):
    """An unconditional run: no class without a classifier, and with one."""
    workdir = tmp_path / "run"
    short = {
        "training__num_steps": 2,
        "training__log_every": 2,
        "training__checkpoint_every": 2,
        "training__batch_size": 4,
    }
    assert main(command("train", workdir, **TINY, **short)) == 0
    asked = {"sampling__label": 3, "sampling__guidance": 2.0}
    assert main(command("sample", workdir, sampling__sampler="ddim", **asked)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "train one with --mode classifier" in error
    small = {"classifier__num_steps": 2, "classifier__width": 8}
    assert main(command("classifier", workdir, **small)) == 0
    assert "classifier of 10 classes, 2 steps" in capsys.readouterr().out
    found = RunDir.open(workdir).read_result("classifier")
    assert found["num_test"] == 360
    assert found["settings"]["width"] == 8
    assert main(command("classifier", workdir, **small)) == 0
    assert "is there already and will be replaced" in capsys.readouterr().out
    assert main(command("sample", workdir, sampling__sampler="ddim", **asked)) == 0
    result = json.loads((workdir / "results" / "samples-ddim.json").read_text())
    settings = result["settings"]
    assert (settings["label"], settings["guidance"], settings["guide"]) == (3, 2.0, "classifier")
    assert result["of_class"]["label"] == 3
    assert result["nfe"] == 4
    assert "class 3 with weight 2 by the classifier" in (workdir / "report.html").read_text()


def test_classes_by_name_and_in_lists(tmp_path, capsys, monkeypatch):
    """On a network that knows classes: a name and its number are one draw; a list is labelled."""
    monkeypatch.setattr(trajectory, "FRAMES", 4)  # each of ten classes is solved between them
    workdir = tmp_path / "run"
    short = {f"training__{key}": 2 for key in ("num_steps", "log_every", "checkpoint_every")}
    assert main(command("train", workdir, **TINY, **short, model__conditional=True)) == 0

    def drawn(label, sampler="ddim", **more):
        asked = {"sampling__sampler": sampler, "sampling__label": label, **more}
        assert main(command("sample", workdir, sampling__seed=7, **asked)) == 0
        return capsys.readouterr().out.splitlines()[-2:]

    drawn("3")
    folder = workdir / "samples"
    alone = (folder / "00000002-ddim.png").read_bytes()
    said = " ".join(drawn("'0,3'", sampling__save="npz"))
    assert "of classes 0, 3, and" in said
    (path,) = folder.glob("*/samples.npz")
    with np.load(path) as found:
        assert found["arr_1"].tolist() == [0, 3] * 8
    settings = json.loads((path.parent / "settings.json").read_text())
    assert settings["label"] == "0,3"
    run = sf.load(workdir, "cpu")
    mixed = run.sample(16, sampler="ddim", label=[0, 3], seed=7)
    threes = run.sample(16, sampler="ddim", label=3, seed=7)
    assert (mixed[1::2].int() - threes[1::2].int()).abs().max() <= 1  # other batch mates
    assert (folder / "00000002-ddim.png").read_bytes() == alone
    drawn("all", "ode", sampling__progressive=True)  # class by class
    assert main(command("sample", workdir, sampling__label="cat")) == 2
    assert "no class is called 'cat'" in capsys.readouterr().err
    assert main(command("likelihood", workdir, likelihood__label="data")) == 0
    result = RunDir.open(workdir).read_result("likelihood")
    assert result["settings"]["label"] == -1  # of no class: it stays the headline
    page = (workdir / "report.html").read_text()
    assert "classes 0,3 with weight 1 by the network" in page
    assert ">data<" in page


@pytest.mark.slow
def test_digits_of_a_modest_training_are_of_the_class():
    """Nearest-neighbour class of 64 samples of each of three digits; chance is 10 %."""
    flat = request.flatten(digits.get_config().to_dict())
    flat |= {
        "model.conditional": True,
        "training.num_steps": 400,
        "training.checkpoint_every": 400,
    }
    made = assembly.experiment(resolve.resolve(flat, "digits"), CPU)
    trainer = trainer_of(made)
    list(trainer.run())
    model, c = built(made, trainer), made.config.sampling
    for label in (0, 3, 7):
        drawing = guided_drawing(made, "dpm", model, label, 2.0, steps=15)
        drawn = draw(drawing, "dpm", model.sde, made.data, c.seed, c.num_images, c.batch_size)
        assert drawn.result["of_class"]["rate"] > 0.7
