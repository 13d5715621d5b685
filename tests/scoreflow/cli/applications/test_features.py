"""--mode features: a file of activations, and a sweep over layers and times."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.cli.modes.applications import feature_sweep
from scoreflow.data.levels import centres
from scoreflow.evaluation.representations import probe
from scoreflow.evaluation.representations.activations import Asked
from scoreflow.evaluation.representations.clusters import k_means
from scoreflow.factory.applications.features import build_time
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.report.page import write_report
from scoreflow.runtime import distributed, memory
from scoreflow.sde import VPSDE
from scoreflow.storage.run_folder import RunDir
from scoreflow.training.classifier_file import save_classifier

FIXTURE = Path(__file__).parents[3] / "fixtures" / "run-0.1"
SMALL = (
    "--config.features.num_images=40",
    "--config.features.train_images=120",
    "--config.features.layers=('down.0.0','middle')",
    "--config.features.times=(1,200)",
    "--config.features.beside=('pixels','pca','classifier')",
    "--config.features.repeats=2",
    "--config.features.sweep=true",
)


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "run"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pages have tests of their own."""
    monkeypatch.setattr(
        "scoreflow.cli.modes.applications.features.write_report", lambda folder: folder.path
    )


def ask(run, *flags):
    return main(["run.py", "--mode=features", f"--workdir={run}", "--device=cpu", *flags])


def read(path):
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def result(run):
    return json.loads((run / "results" / "features.json").read_text())


# ---- a file -------------------------------------------------------------------------------------


def test_a_file_holds_what_the_call_returns(run, tmp_path, capfd):
    out = tmp_path / "new" / "found.npz"
    flags = ["--config.features.layer=middle.0", "--config.features.t=100"]
    flags += ["--config.features.num_images=30", "--config.features.draws=2"]
    assert ask(run, *flags, f"--out={out}", "--config.features.clusters=4") == 0
    found, trained = read(out), sf.load(run, "cpu")
    own = trained.features(trained.data.test[:30], "middle.0", 100, draws=2)
    assert np.array_equal(found["features"], own.numpy())
    assert found["features"].shape == (30, 8)
    assert np.array_equal(found["labels"], trained.data.test_labels[:30].numpy())
    assert found["clusters"].shape == (30,)
    assert set(found["clusters"]) <= {0, 1, 2, 3}
    about = json.loads(str(found["about"]))
    assert about["layer"] == about["module"] == "middle.0"
    assert (about["t"], about["draws"], about["pool"], about["data"]) == (100, 2, "mean", "test")
    assert about["weights"] == trained.fingerprint
    assert about["step"] == trained.step
    assert f"written to {out}" in capfd.readouterr().out
    scaled = (found["features"] - found["features"].mean(0)) / found["features"].std(0)
    assert np.array_equal(found["clusters"], k_means(scaled, 4, 0).labels_)


def test_a_file_of_the_run_is_called_by_what_is_in_it(run):
    asked = ["layer=down.0.0", "num_images=2", "pool=quarters", "t=3.5", "draws=2", "seed=1"]
    assert ask(run, *(f"--config.features.{each}" for each in asked)) == 0
    (file,) = (run / "features").iterdir()
    assert file.name == "00000060-down.0.0-quarters-t3.5-draws2-seed1-test.npz"


def test_what_is_no_module(run):
    """Pixels are the centres of bins, latents those of `encode`; each in a file of the run."""
    few = "--config.features.num_images=5"
    assert ask(run, few, "--config.features.layer=pixels", "--config.features.data=train") == 0
    assert ask(run, few, "--config.features.layer=latent") == 0
    assert ask(run, few, "--config.features.layer=x_0", "--config.features.t=50") == 0
    folder, trained = run / "features", sf.load(run, "cpu")
    pixels = read(folder / "00000060-pixels-train.npz")
    assert np.array_equal(pixels["features"], centres(trained.data.train[:5], 17).float().numpy())
    assert np.array_equal(pixels["labels"], trained.data.train_labels[:5].numpy())
    latents = read(folder / "00000060-latent-test.npz")["features"]
    assert np.array_equal(latents, trained.encode(trained.data.test[:5]).float().numpy())
    assert json.loads(str(read(folder / "00000060-latent-test.npz")["about"]))["t"] is None
    assert read(folder / "00000060-x_0-t50-test.npz")["features"].shape == (5, 1, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [("layer=middle", "t=100", "draws=2", "clusters=4"), ("layer=latent", "num_images=60")],
)
def test_two_processes_write_the_file_of_one(run, torchrun, tmp_path, asked):
    script, out = Path(__file__).parents[4] / "run.py", [tmp_path / "a.npz", tmp_path / "b.npz"]
    flags = [f"--config.features.{each}" for each in (*asked, "batch_size=25")]
    assert ask(run, *flags, f"--out={out[0]}") == 0
    command = ["--mode=features", f"--workdir={run}", "--device=cpu", *flags]
    done = torchrun(2, script, *command, f"--out={out[1]}")
    assert done.returncode == 0, done.stderr
    alone, together = map(read, out)
    assert alone.keys() == together.keys()
    assert all(np.array_equal(alone[name], together[name]) for name in alone)


def test_a_sweep_is_of_one_process(run, monkeypatch, capfd):
    monkeypatch.setattr("scoreflow.runtime.distributed.shard", distributed.Shard)
    monkeypatch.setattr("scoreflow.runtime.distributed.placement", lambda: distributed.Shard(0, 2))
    assert ask(run, *SMALL) == 2
    assert "features.sweep = true runs in one process" in capfd.readouterr().err
    assert not (run / "results" / "features.jsonl").exists()


def test_images_of_a_folder_with_their_names_and_classes(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    for k, image in enumerate(pixels):
        folder = tmp_path / "mine" / ("cat" if k % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image // 16 * 16).save(folder / f"{k}.png")
    out = tmp_path / "f.npz"
    flags = [f"--config.features.data={tmp_path / 'mine'}", "--config.features.mode=auto"]
    assert ask(run, "--config.features.layer=stem", *flags, f"--out={out}") == 0
    found = read(out)
    assert found["features"].shape == (6, 8)
    assert sorted(found["labels"].tolist()) == [0, 0, 0, 1, 1, 1]
    of_cats = [("cat" in name) for name in found["names"].tolist()]
    assert of_cats == [label == 0 for label in found["labels"].tolist()]
    assert json.loads(str(found["about"]))["data"] == "mine"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "features.layer is missing: it is one of down.0.0, middle.0"),
        (("layer=mddle",), "no layer 'mddle'; did you mean 'middle'?"),
        (
            ("layer=middle", "t=1001"),
            "features.t must lie in [1, 1000] (0 for the least)",
        ),
        (("layer=middle", "t=0.5"), "features.t must lie in [1, 1000]"),
        (("layer=latent", "t=5"), "features.t has no effect on features.layer = latent"),
        (("layer=middle", "pool=men"), "features.pool must be one of mean, max, quarters, none"),
        (("layer=middle", "label=3"), "trained without model.conditional: it has no class"),
        (("layer=middle", "clusters=500"), "must be at most the number of data, 360"),
        (("layer=middle", "data=/no/such"), "no such dataset path: '/no/such'"),
        (("layer=middle", "times=(1,)"), "features.times has no effect on features.sweep = false"),
        (("layer=pixels", "draws=2"), "features.draws has no effect on features.layer = pixels"),
        (("layer=latent", "t=9"), "features.t has no effect on features.layer = latent"),
        (("layer=x_0", "pool=max"), "features.pool has no effect on features.layer = x_0"),
        (("layer=middle", "fit=crop"), "features.fit has no effect on features.data = test"),
        (("sweep=true", "layer=middle"), "features.layer has no effect on features.sweep = true"),
        (("sweep=true", "layers=('latent',)"), "latent is of no time, and stands beside"),
        (("sweep=true", "times=(2000,)"), "features.times must lie in [1, 1000]"),
        (("sweep=true", "beside=('pixel',)"), "did you mean 'pixels'?"),
        (("sweep=true", "clusters=1"), "features.clusters must be at least 2 in a sweep, got 1"),
        (("sweep=true", "train_images=20"), "3 training data of each of two classes at least"),
        (("sweep=true", "clusters=90", "num_images=50"), "at most the number of data, 50"),
    ],
)
def test_bad_requests_end_in_a_line_before_any_work(run, flags, told, capfd):
    assert ask(run, *(f"--config.features.{flag}" for flag in flags)) == 2
    err = capfd.readouterr().err.strip()
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (run / "results" / "features.jsonl").exists()
    assert not (run / "features").exists()


def test_a_classifier_that_is_named_must_be_there(run, capfd):
    (run / "classifier.pt").unlink()
    assert ask(run, *SMALL) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
    assert not (run / "results" / "features.jsonl").exists()


def test_a_file_of_another_kind_and_one_for_a_sweep_are_refused(run, tmp_path, capfd):
    assert ask(run, f"--out={tmp_path / 'f.csv'}", "--config.features.layer=middle") == 2
    assert "--out must name a .npz file" in capfd.readouterr().err
    assert ask(run, f"--out={tmp_path / 'f.npz'}", "--config.features.sweep=true") == 2
    assert "--out has no effect on features.sweep = true" in capfd.readouterr().err


def test_what_no_memory_holds_is_refused(run, monkeypatch, capfd):
    monkeypatch.setattr(memory, "total_bytes", lambda: 360 * 8 * 64 * 4 - 1)
    flags = ["--config.features.layer=middle", "--config.features.pool=none"]
    assert ask(run, *flags) == 2
    assert "features.pool = none of 360 data and 1 layers needs" in capfd.readouterr().err
    assert ask(run, *flags, "--config.features.num_images=359") == 0


def test_a_network_of_whole_times_is_asked_at_these_alone():
    sde, vectors = VPSDE.log_linear(100), MLP(2, 8)
    model = ScoreModel(vectors, sde, "v", integer_times=True)
    assert build_time(0.0, model) == 1
    assert build_time(7.0, model) == 7
    with pytest.raises(sf.RequestError, match=r"features\.t must be a whole number .* got 7\.5"):
        build_time(7.5, model)
    assert build_time(7.5, ScoreModel(vectors, sde, "v")) == 7.5


# ---- vectors, without labels --------------------------------------------------------------------


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A hardly trained run on points of the plane."""
    folder = tmp_path_factory.mktemp("plane") / "run"
    short = {"model.width": 8, "model.depth": 1, "training.num_steps": 2, "training.log_every": 1}
    list(sf.train("toy", folder, {**short, "training.batch_size": 8}, device="cpu"))
    return folder


def test_vectors_and_their_layers(plane, tmp_path, capfd):
    run = Path(shutil.copytree(plane, tmp_path / "run"))
    assert ask(run, "--config.features.layer=layers.0", "--config.features.num_images=7") == 0
    (found,) = (run / "features").iterdir()
    assert {name: array.shape for name, array in read(found).items()} == {
        "features": (7, 8),
        "about": (),
    }
    assert ask(run, "--config.features.layer=stem", "--config.features.data=folder") == 2
    assert "is test or train for a run of vectors" in capfd.readouterr().err


def test_without_labels_a_sweep_is_of_clusters_alone(plane, tmp_path, capfd):
    run = Path(shutil.copytree(plane, tmp_path / "run"))
    flags = ["--config.features.sweep=true", "--config.features.times=(1,500)"]
    flags += ["--config.features.num_images=50", "--config.features.train_images=60"]
    flags += ["--config.features.repeats=2"]
    assert ask(run, *flags) == 2
    assert "has no labels to tell classes by: set features.clusters=K" in capfd.readouterr().err
    assert ask(run, *flags, "--config.features.clusters=3") == 0
    found = result(run)
    assert found["best"].keys() == {"clusters"}
    cases = ["pixels", "pca", "latent", *(f"{n}@{t}" for t in (1, 500) for n in found["layers"])]
    assert [row["case"] for row in found["rows"]] == cases
    assert found["layers"] == ["stem", "layers.0", "head"]
    assert all(row.get("accuracy") is None for row in found["rows"])
    assert "ARI between starts" in capfd.readouterr().out
    page = write_report(RunDir.open(run)).read_text()
    assert "agreement of two runs" in page
    assert "is damaged" not in page


# ---- a sweep ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    run = Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("swept") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "scoreflow.cli.modes.applications.features.write_report", lambda folder: folder.path
        )
        assert ask(run, *SMALL) == 0
    return run


def test_a_row_is_what_the_features_give_on_their_own(swept):
    found, trained = result(swept), sf.load(swept, "cpu")
    data, rows = trained.data, {row["case"]: row for row in found["rows"]}
    layers = [f"{name}@{t}" for t in (1, 200) for name in ("down.0.0", "middle.1")]
    assert list(rows) == ["pixels", "pca", "classifier", *layers]
    train, test = (
        trained.features(each, "middle", 200).numpy()
        for each in (data.train[:120], data.test[:40])
    )
    labels = data.train_labels[:120].numpy(), data.test_labels[:40].numpy()
    own = probe.linear_probe(train, labels[0], test, labels[1], 0)
    row = rows["middle.1@200"]
    assert (row["accuracy"], row["folds"], row["strength"]) == (
        own.accuracy, own.folds, own.strength,
    )  # fmt: skip
    assert row["num_features"] == 8
    assert found["evaluations"] == 2  # at two times, for all layers
    assert found["best"]["probe"] == max(layers, key=lambda case: rows[case]["folds"])
    assert found["value"] == rows[found["best"]["probe"]]["accuracy"]
    assert rows["pixels"]["accuracy"] > 0.5 > 0.1  # of ten classes
    assert len(found["plane"]["points"]) == len(found["plane"]["labels"]) == 40
    assert found["weights"] == trained.fingerprint


def test_the_report_has_heat_maps_a_cloud_and_a_table(swept):
    page = write_report(RunDir.open(swept)).read_text()
    for told in ("Linear probe: accuracy on test data", "k-means: accuracy of the clusters"):
        assert told in page
    assert page.count("<svg") >= 3
    assert "features of the classifier of noisy images" in page
    assert "principal component 1" in page
    assert "is damaged" not in page


def test_a_sweep_goes_on_where_it_was_stopped_and_grows(swept, tmp_path, monkeypatch):
    """Cases that are there are not measured again; one evaluation serves all layers of a time."""
    run = Path(shutil.copytree(swept, tmp_path / "run"))
    rows, before = run / "results" / "features.jsonl", result(run)
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(lines[:-2]))  # middle at 200, and down.0.0 there
    asked = []
    activations = feature_sweep.activations

    def counted(asked_so, values, t, paths, *more):
        asked.append((t, tuple(paths), len(values)))
        return activations(asked_so, values, t, paths, *more)

    monkeypatch.setattr(feature_sweep, "activations", counted)
    assert ask(run, *SMALL) == 0
    both = ("down.0.blocks.0", "middle.1")
    assert asked[:2] == [(200.0, both, 120), (200.0, both, 40)]
    assert len(asked) == 4  # and the layer that is drawn in the plane
    assert result(run)["rows"] == before["rows"]
    asked.clear()
    more = [flag for flag in SMALL if "layers" not in flag]
    assert ask(run, *more, "--config.features.layers=('down.0.0','middle','stem')") == 0
    assert [each for each in asked if "stem" in each[1]][:4] == [
        (t, ("stem",), count) for t in (1.0, 200.0) for count in (120, 40)
    ]
    assert sum(len(each[1]) > 1 for each in asked) == 0
    assert len(result(run)["rows"]) == len(before["rows"]) + 2


def test_another_seed_or_pool_is_another_question(swept, tmp_path):
    run = Path(shutil.copytree(swept, tmp_path / "run"))
    once = [f for f in SMALL if "times" not in f and "layers" not in f and "beside" not in f]
    once += ["--config.features.times=(1,)", "--config.features.layers=('stem',)"]
    once += ["--config.features.beside=('pixels',)"]
    assert ask(run, *once, "--config.features.pool=quarters") == 0
    assert len(list((run / "results").glob("features*.jsonl"))) == 2
    (row,) = [row for row in result(run)["rows"] if row["name"] == "stem"]
    assert row["num_features"] == 4 * 8
    beside = list((run / "results").glob("features-*.json"))
    assert len(beside) == 1  # the first sweep's, kept under its hash


def test_another_classifier_is_another_question(swept, tmp_path):
    """Its row is not that of the one before; a sweep without it goes on."""
    run = Path(shutil.copytree(swept, tmp_path / "run"))
    trained = sf.load(run, "cpu")
    classifier = trained.classifier()
    for weight in classifier.network.parameters():
        weight.requires_grad_(False).zero_()
    save_classifier(run, classifier)
    assert ask(run, *SMALL) == 0
    before, after = (
        next(row for row in result(each)["rows"] if row["case"] == "classifier")
        for each in (swept, run)
    )
    assert after["accuracy"] < 0.3 < before["accuracy"]


def test_a_conditional_network_is_asked_for_no_class_or_one(tmp_path):
    short = {"model.channels": 8, "model.num_groups": 4, "model.blocks": 1}
    short |= {"model.conditional": True, "training.num_steps": 2, "training.batch_size": 4}
    run = tmp_path / "run"
    list(sf.train("digits", run, short, device="cpu"))
    trained = sf.load(run, "cpu")
    few = trained.data.test[:3]
    with torch.no_grad():  # untrained, the rows of classes may be alike
        trained.model.network.embedding.classes.weight.normal_()
    none, three = (trained.features(few, "middle", 10, label=label) for label in (-1, 3))
    assert not torch.equal(none, three)
    none, three = (trained.features(few, "latent", label=label) for label in (-1, 3))
    assert torch.equal(none, trained.encode(few).float())
    assert not torch.equal(none, three)
    asked = Asked(trained.model.labelled(3), trained.data.num_levels)
    assert torch.equal(feature_sweep.encoded(trained, asked, few, lambda _n: None), three)
    with pytest.raises(sf.RequestError, match=r"features\.label must lie in 0\.\.9"):
        trained.features(few, "middle", 10, label=10)
    with pytest.raises(sf.RequestError, match="num_images has no effect on features: pass fewer"):
        trained.features(few, "middle", 10, num_images=2)
