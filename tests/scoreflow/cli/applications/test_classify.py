"""--mode classify as a user meets it: measured, resumed, elsewhere refused in a line."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.cli.modes.applications import classify
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.applications import classification
from scoreflow.likelihood.classification import rows
from scoreflow.likelihood.classification.bound_by_class import LogLikelihoods
from scoreflow.runtime.distributed import Shard
from scoreflow.schema.applications.classify import ClassifyConfig
from scoreflow.schema.config import Config

TINY = [
    "--device=cpu",
    "--config.model.conditional=true",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=2",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.model.attention_sizes=()",
    "--config.model.multipliers=(1,)",
    "--config.likelihood.nodes=8",
    "--config.likelihood.batch_size=16",
    "--config.likelihood.num_images=8",
    "--config.classify.times=16",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A conditional network of four steps, without what follows a training."""
    workdir = tmp_path_factory.mktemp("classes") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoreflow.cli.modes.train.COMPARED", ())
        patch.setattr("scoreflow.cli.modes.train.measure_test_set", lambda _: None)
        patch.setattr("scoreflow.cli.modes.train.write_report", lambda _: None)
        assert main(["run.py", "--mode=train", f"--workdir={workdir}", *TINY]) == 0
    assert ask(workdir) == 0
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy to write in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def ask(run, *more):
    return main(["run.py", "--mode=classify", f"--workdir={run}", "--device=cpu", *more])


def result_of(run, name="classify"):
    return json.loads((run / "results" / f"{name}.json").read_text())


def test_what_is_measured(trained):
    result = result_of(trained)
    names = [row["name"] for row in result["methods"]]
    assert names == [
        "flow", "flow, tempered", "bound", "bound, tempered", "3 nearest in pixels",
        "logistic regression",
    ]  # fmt: skip
    assert result["num_images"] == 8
    assert result["classes"] == list(range(10))
    assert sum(result["prior"]) == pytest.approx(1)
    assert 0 <= result["value"] == result["methods"][0]["accuracy"] <= 1
    assert result["halving"]["evaluations"] <= result["halving"]["in_full"] == 8 * 10 * 17
    for way in ("flow", "bound"):
        lines = (trained / "results" / f"classify-{way}.jsonl").read_text().splitlines()[1:]
        found = sorted(map(json.loads, lines), key=lambda row: row["image"])
        assert [row["image"] for row in found] == list(range(8))
        assert all(len(row["nats"]) == 10 for row in found)
    page = (trained / "report.html").read_text()
    assert "Classification by likelihood" in page
    assert "Reliability" in page
    assert page.count("classification-by-likelihood") == 3  # the section, contents and headline
    assert "Misclassified" in page


def test_from_python_the_posterior_is_that_of_the_command(trained):
    run = sf.load(trained, "cpu")
    images, flow = run.data.test[:4], torch.empty(0)
    for way in ("flow", "bound"):
        found = run.classify(images, by=way)
        lines = (trained / "results" / f"classify-{way}.jsonl").read_text().splitlines()[1:]
        nats = torch.tensor([r["nats"] for r in sorted(map(json.loads, lines), key=image_of)])
        torch.testing.assert_close(found.nats, nats[:4].double(), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(found.log_probs.exp().sum(1), torch.ones(4).double())
        assert found.found.tolist() == found.log_probs.argmax(1).tolist()
        flow = found.nats if way == "flow" else flow
    # by the flow each class has the likelihood that the run has when it is asked of that class
    alone = -run.log_likelihood(images, label=7).values.cpu() * 64 * math.log(2)
    torch.testing.assert_close(flow[:, 7], alone.double(), rtol=1e-5, atol=1e-3)
    with pytest.raises(RequestError, match="one way to log p"):
        run.classify(images, by="both")
    with pytest.raises(
        RequestError, match=r"classify\.times has no effect on classify\.by = flow"
    ):
        run.classify(images, by="flow", times=8)


def image_of(row):
    return row["image"]


@pytest.fixture
def quick(monkeypatch):
    """Without what other tests see: the page, and classifiers that need no rows."""
    monkeypatch.setattr("scoreflow.cli.modes.applications.classify.write_report", lambda _: None)
    monkeypatch.setattr("scoreflow.likelihood.classification.baselines.ITERATIONS", 1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", ["flow", "bound"])
def test_interrupted_it_goes_on_to_the_same_bits(run, trained, way):
    path = run / "results" / f"classify-{way}.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:20])  # the second block cut off in a row
    assert ask(run, f"--config.classify.by={way}") == 0
    ours, theirs = (
        {row["image"]: row["nats"] for row in map(json.loads, text.splitlines()[1:])}
        for text in (path.read_bytes(), whole)
    )
    assert ours == theirs
    method = result_of(run, _beside(run))["methods"][0]
    assert method == next(row for row in result_of(trained)["methods"] if row["name"] == way)


def _beside(run):
    """The newer result, which is of fewer methods and stays beside."""
    found = [path.stem for path in (run / "results").glob("classify-*.json")]
    assert len(found) == 1
    return found[0]


@pytest.mark.usefixtures("quick")
def test_with_the_classifier_and_without_halving(run):
    few = ["--config.classifier.num_steps=2", "--config.classifier.width=8"]
    assert main(["run.py", "--mode=classifier", f"--workdir={run}", "--device=cpu", *few]) == 0
    more = ["--config.classify.by=bound", "--config.classify.halving=false"]
    more += ["--config.likelihood.num_images=4", "--config.classify.prior=uniform"]
    picture = run / "samples" / f"{result_of(run)['picture']}.png"
    before = picture.read_bytes()
    assert ask(run, *more) == 0
    assert picture.read_bytes() == before  # the headline's, which stays
    result = result_of(run, _beside(run))
    assert "noisy-image classifier" in [row["name"] for row in result["methods"]]
    assert result["prior"] == pytest.approx([0.1] * 10)
    assert "halving" not in result
    assert result["methods"][0]["evaluations"] == 10 * 17
    assert result["picture"] != result_of(run)["picture"]


@pytest.fixture(scope="module")
def heading_of(trained):
    """What a way's rows are made under, with keys of a section or the weights changed."""
    run = sf.load(trained, "cpu")
    prior = classification.build_prior(run.config, run.model, run.data)
    names = ("config", "data", "step", "experiment", "fingerprint", "trained_with")
    facts = {name: getattr(run, name) for name in names}

    def of(way, section="", changed=None, **others):
        config = run._with(section, changed or {})
        return classify._heading(
            SimpleNamespace(**facts | {"config": config} | others), way, prior, 4
        )

    return of


def test_rows_are_of_one_question(heading_of):
    """A row is taken as done under its heading alone: what changes a row changes the heading."""
    flow, bound = heading_of("flow"), heading_of("bound")
    assert flow != bound
    for way, same in (("flow", flow), ("bound", bound)):
        for key, value in (("num_images", 5), ("max_evaluations", 9000)):
            assert heading_of(way, "likelihood", {key: value}) == same
        assert heading_of(way, "likelihood", {"seed": 1}) != same
        assert heading_of(way, step=2) != same
        assert heading_of(way, fingerprint="other") != same
    dopri5 = {"method": "dopri5"}
    for changed in (
        {"nodes": 16}, {"probes": 2}, {"substeps": 2}, {"trajectory_tolerance": 0.1},
        {"dequantization": "last_step"}, {"t_start": 2.0}, dopri5,
    ):  # fmt: skip
        assert heading_of("flow", "likelihood", changed) != flow
        assert heading_of("bound", "likelihood", changed) == bound
    for changed in ({"times": 24}, {"z": 3.0}, {"prior": "uniform"}, {"halving": False}):
        assert heading_of("bound", "classify", changed) != bound
        assert heading_of("flow", "classify", changed) == flow
    loose = heading_of("flow", "likelihood", {**dopri5, "tolerance": 0.01})
    assert loose != heading_of("flow", "likelihood", dopri5)


@pytest.mark.slow
def test_digits_are_told_apart(tmp_path, monkeypatch):
    """A third of the experiment's training; docs/classification.md has all of it."""
    monkeypatch.setattr("scoreflow.cli.modes.train.COMPARED", ())
    monkeypatch.setattr("scoreflow.cli.modes.train.measure_test_set", lambda _: None)
    base = ["run.py", "--device=cpu", f"--workdir={tmp_path}/run"]
    short = ["--mode=train", "--config=digits_classes", "--config.training.num_steps=1000"]
    assert main([*base, *short]) == 0
    few = ["--mode=classify", "--config.classify.by=bound", "--config.likelihood.num_images=180"]
    assert main([*base, *few, "--config.classify.times=32"]) == 0
    result = result_of(tmp_path / "run")
    assert result["value"] > 0.9
    assert result["methods"][0]["calibration"]["nll"] < 0.5
    assert result["halving"]["saved"] > 0.15


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config.classify.by=chain"], "classify.by must be one of flow, bound, both"),
        (["--config.classify.prior=even"], "classify.prior must be one of data, uniform"),
        (["--config.classify.times=7"], "classify.times must lie in [8, 1e+06], got 7"),
        (["--config.classify.times=11"], "classify.halving saves nothing with classify.times"),
        (["--config.classify.z=0"], "classify.z must lie in (0, inf"),
        (
            ["--config.classify.by=flow", "--config.classify.times=32"],
            "classify.times has no effect on classify.by = flow",
        ),
        (
            ["--config.classify.halving=false", "--config.classify.z=3"],
            "classify.z has no effect on classify.halving = false",
        ),
        (
            ["--config.classify.by=bound", "--config.likelihood.nodes=16"],
            "likelihood.nodes has no effect on classify.by = bound",
        ),
        (["--config.likelihood.label=3"], "likelihood.label has no effect on --mode classify"),
        (["--config.likelihood.tolerance=0.1"], "likelihood.tolerance has no effect"),
        (["--config.likelihood.step=3"], "has no checkpoint of step 3"),
        (["--config.classify.tims=3"], "did you mean"),
    ],
)
def test_bad_requests(run, capsys, flags, told):
    assert ask(run, *flags) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert told in err[-1]
    assert err[-1].startswith("run.py: ")


class Network:
    """What the factory asks of a network."""

    num_classes = 3


def of_labels(train, test):
    levels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    return Data("d", levels, levels, 16, train, test)


LABELS = torch.tensor([0, 1, 2, 1])


def test_networks_and_data_that_cannot_be_asked():
    unconditional = Network()
    unconditional.num_classes = 0
    whole = of_labels(LABELS, LABELS)
    with pytest.raises(RequestError, match="this one was not: train it with --config"):
        classification.build_prior(Config(), unconditional, whole)
    for none in (of_labels(None, None), replace(of_labels(LABELS, None))):
        with pytest.raises(RequestError, match="needs labelled training and test data, and d has"):
            classification.build_prior(Config(), Network(), none)
    with pytest.raises(RequestError, match="tells classes apart, and the training data have 1"):
        classification.build_prior(Config(), Network(), of_labels(LABELS * 0, LABELS * 0))
    with pytest.raises(RequestError, match="the network knows 3 classes, and d has a class 4"):
        classification.build_prior(Config(), Network(), of_labels(LABELS + 2, LABELS + 2))
    with pytest.raises(RequestError, match=r"test images of d are of classes \[0\] without a tr"):
        classification.build_prior(Config(), Network(), of_labels(LABELS.clamp(min=1), LABELS))
    shares = classification.build_prior(Config(), Network(), whole).log.exp()
    assert shares.tolist() == pytest.approx([0.25, 0.5, 0.25])
    flat = Config(classify=ClassifyConfig(prior="uniform"))
    assert classification.build_prior(flat, Network(), whole).log.exp().std() < 1e-12


class Marked:
    """Log-likelihoods that say which images were asked together."""

    def __init__(self):
        self.asked = []

    def of(self, data, index):
        self.asked.append(index.tolist())
        nats = torch.stack([data[:, 0] * 1.0, index + len(index) / 100], 1).double()
        return LogLikelihoods(nats, None, torch.ones(len(index), 2, dtype=torch.int64))


class Pooled(Shard):
    """A process among others that have told what they found."""

    pool: ClassVar[dict[int, object]] = {}

    def gathered(self, own):
        self.pool.update(own)
        return dict(self.pool)


def test_blocks_are_the_same_for_any_number_of_processes():
    data = torch.arange(11.0)[:, None]
    alone = rows.measure(Marked(), data, 4)
    Pooled.pool.clear()
    way = Marked()
    with pytest.raises(KeyError):  # the second process has not told yet
        rows.measure(way, data, 4, shard=Pooled(1, 2))
    assert way.asked == [[4, 5, 6, 7]]
    first = Marked()
    both = rows.measure(first, data, 4, shard=Pooled(0, 2))
    assert first.asked == [[0, 1, 2, 3], [8, 9, 10]]
    assert torch.equal(both.nats, alone.nats)
