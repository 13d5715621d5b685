"""Several sets of other data and the table of scores, as a user meets them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.cli.modes.applications import detection, other_data
from scoreflow.cli.modes.applications.detection import scores
from scoreflow.data.dataset import digest
from scoreflow.data.levels import points
from scoreflow.errors import RequestError
from scoreflow.likelihood.detection import dataset_statistics
from scoreflow.likelihood.detection.dataset_statistics import check_row
from scoreflow.likelihood.detection.statistics import (
    LOG_SNR,
    PATH,
    at_level,
    levels,
    noise_of,
    probes_of,
)
from scoreflow.sde.noise import Noise, Stream

TINY = [
    "--device=cpu",
    "--config.data.test_fraction=0.02",  # 36 of 1797
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=2",
    "--config.training.preview_every=0",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.sampling.tolerance=0.1",
    "--config.likelihood.num_images=8",
    "--config.likelihood.batch_size=16",
    "--config.likelihood.nodes=8",
    "--config.likelihood.checked=0",
]
ALL = ("scores=all", "held_out=32")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A network of four steps, a set of noise and a set of grey squares."""
    at = tmp_path_factory.mktemp("detection")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoreflow.cli.modes.train.COMPARED", ())
        patch.setattr("scoreflow.cli.modes.train.measure_test_set", lambda _: None)
        patch.setattr("scoreflow.cli.modes.train.write_report", lambda _: None)
        assert main(["run.py", "--mode=train", f"--workdir={at / 'run'}", *TINY]) == 0
    rng = np.random.default_rng(0)
    for k in range(6):
        write(at / "noise" / f"n{k}.png", rng.integers(0, 17, (8, 8)))
        write(at / "grey" / f"g{k}.png", np.full((8, 8), 3 * k))
    return at


@pytest.fixture
def run(digits, tmp_path):
    """A copy to write in."""
    return Path(shutil.copytree(digits / "run", tmp_path / "run"))


def write(path, levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(levels, np.uint8)).save(path)


def ask(run, *more):
    flags = [f"--config.likelihood.{each}" for each in more]
    return main(["run.py", "--mode=likelihood", f"--workdir={run}", "--device=cpu", *flags])


def result(run, name="detection"):
    return json.loads((run / "results" / f"{name}.json").read_text())


def rows(run, name):
    lines = (run / "results" / f"{name}.jsonl").read_text().splitlines()[1:]
    return {row["image"]: row for row in map(json.loads, lines)}


def refused(run, capfd, *more, says):
    """One line, exit status 2, and nothing written."""
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    capfd.readouterr()
    assert ask(run, *more) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1, err
    assert says in err, err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    return out


# ---- several sets


def test_several_sets_are_each_measured_as_one_alone_is(digits, run, tmp_path):
    assert ask(run, f"data={digits / 'noise'}, {digits / 'grey'}") == 0
    assert not list((run / "results").glob("detection*"))
    alone = Path(shutil.copytree(digits / "run", tmp_path / "alone"))
    assert ask(alone, f"data={digits / 'grey'}") == 0
    file = "likelihood-data-grey"
    kept = [(each / "results" / f"{file}.jsonl").read_bytes() for each in (run, alone)]
    assert kept[0] == kept[1]
    both = [result(each, file) for each in (run, alone)]
    assert both[0]["detection"] == both[1]["detection"]
    assert both[0]["kept"]["hash"] == both[1]["kept"]["hash"]


def test_a_path_with_a_comma_is_a_path(digits, tmp_path):
    odd = Path(shutil.copytree(digits / "noise", tmp_path / "a,b"))
    assert other_data.paths_in(str(odd)) == (str(odd),)
    assert other_data.paths_in("a,b") == ("a", "b")
    assert other_data.paths_in("train") == ("train",)
    many = ",".join(f"{tmp_path}/{k:0100d}" for k in range(50))  # longer than any path may be
    assert len(other_data.paths_in(many)) == 50
    with pytest.raises(RequestError, match="between two commas"):
        other_data.paths_in("a,,b")


def test_what_cannot_be_told_apart_is_refused_before_any_work(digits, run, tmp_path, capfd):
    noise, grey = digits / "noise", digits / "grey"
    refused(run, capfd, f"data={noise},{tmp_path / 'none'}", *ALL, says="no such dataset path")
    refused(run, capfd, f"data={noise},{noise}", says="twice: leave one out")
    again = shutil.copytree(noise, tmp_path / "again")
    refused(run, capfd, f"data={noise},{again}", says="noise and again are the same images")
    other = shutil.copytree(grey, tmp_path / "noise")
    refused(run, capfd, f"data={noise},{other}", says="two of the sets are called noise")
    write(tmp_path / "wide" / "a.png", np.zeros((8, 9)))
    refused(run, capfd, f"data={noise},{tmp_path / 'wide'}", says="8x9 pixels")
    write(tmp_path / "one" / "a.png", np.ones((8, 8)))
    refused(
        run, capfd, f"data={noise},{tmp_path / 'one'}", *ALL,
        says="takes two images of each set at least, got 1 of one",
    )  # fmt: skip
    named = shutil.copytree(grey, tmp_path / "reference")
    refused(run, capfd, f"data={named}", *ALL, says="calls a set of its own 'reference'")
    refused(run, capfd, *ALL, says="name them by --config.likelihood.data=A,B,...")
    refused(run, capfd, f"data={noise},train", *ALL, says="is what the scores are learned from")
    refused(
        run, capfd, f"data={noise}", "scores=all", "held_out=1762",
        says="must be at most 1761, for the run has 1761 training images",
    )  # fmt: skip
    refused(
        run, capfd, f"data={noise}", "scores=all", "reference=test", "held_out=35",
        says="must be at most 34, for the run has 36 test images, of which two",
    )  # fmt: skip
    refused(run, capfd, f"data={noise}", *ALL, "label=data", says="asks about one law")
    refused(run, capfd, f"data={noise}", "scores=al", says="scores must be one of basic, all")


# ---- the table


def test_the_nearest_is_found_a_block_at_a_time_and_is_no_image_itself(monkeypatch):
    monkeypatch.setattr(detection, "BLOCK", 3)
    drawn = np.random.default_rng(0).integers(0, 17, (12, 1, 2, 2))
    images, known = torch.from_numpy(drawn[:7]), torch.from_numpy(drawn[7:])
    flat = drawn.reshape(12, -1)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_allclose(detection._nearest(images, known, False), apart[:7, 7:].min(1))
    np.testing.assert_allclose(detection._nearest(images, images, True), apart[:7, :7].min(1))


@pytest.fixture(scope="module")
def detected(digits, tmp_path_factory):
    """A run with its table."""
    run = Path(shutil.copytree(digits / "run", tmp_path_factory.mktemp("detected") / "run"))
    assert ask(run, f"data={digits / 'noise'},{digits / 'grey'}", *ALL) == 0
    return run


def test_every_score_has_every_set(detected):
    found = result(detected)
    assert [row["name"] for row in found["scores"]] == [score.name for score in scores()]
    for row in found["scores"]:
        assert list(row["sets"]) == ["noise", "grey"]
        for told in row["sets"].values():
            assert 0 <= told["auroc"] <= 1
            assert told["standard_error"] >= 0
            assert told["fpr95_error"] > 0
    assert found["reference"] == {"of": "train", "num_images": 32}
    assert {name: each["num_images"] for name, each in found["sets"].items()} == {
        "test set": 8, "reference": 32, "noise": 6, "grey": 6,
    }  # fmt: skip
    assert found["weights"] == result(detected, "likelihood")["weights"]
    assert (detected / "samples" / f"{found['picture']}.png").exists()
    for name in ("noise", "grey"):  # as they are told by the likelihood's own numbers
        basic = result(detected, f"likelihood-data-{name}")["detection"]
        for row in found["scores"]:
            if row["name"] in ("bits/dim", "bits/dim over a PNG's"):
                told = row["sets"][name]
                expected = {key: told[key] for key in ("auroc", "standard_error")}
                assert basic[row["name"]] == expected


def test_statistics_have_a_row_an_image_with_its_name_and_what_it_took(detected):
    for name, count in (("test", 8), ("reference", 32), ("data-noise", 6), ("data-grey", 6)):
        kept = rows(detected, f"detection-{name}")
        assert sorted(kept) == list(range(count))
        for row in kept.values():
            assert row["evaluations"] == [len(LOG_SNR), len(LOG_SNR), PATH]
            check_row({k: row[k] for k in row if k not in ("question", "check")})
    assert rows(detected, "detection-data-noise")[2]["name"] == "n2.png"
    heading = (detected / "results" / "detection-test.jsonl").read_text().splitlines()[0]
    read = {"seed", "probes", "log_snr", "path", "data", "weights", "step", "config", "device"}
    assert read <= json.loads(heading).keys()  # with another of them, other rows
    calls = {row["name"]: row["evaluations"] for row in result(detected)["scores"]}
    assert calls["score norm"] == len(LOG_SNR)
    assert calls["DiffPath"] == PATH
    assert calls["all together"] == pytest.approx(calls["bits/dim"] + 2 * len(LOG_SNR) + PATH)


def test_rows_are_of_the_noised_image_and_the_dimension_of_the_image_without_noise(detected):
    trained = sf.load(detected, "cpu")
    heading = (detected / "results" / "detection-reference.jsonl").read_text().splitlines()[0]
    spread = np.linspace(0, 1760, 32).round()  # from all over the training set
    assert json.loads(heading)["data"] == digest(trained.data.train[spread.astype(int)])
    model, few = trained.model.in_precision("float32"), len(LOG_SNR)
    noise, shape = Noise(0, torch.arange(2)), tuple(trained.data.test.shape[1:])
    x_0 = points(trained.data.test[:2], 17, noise, Stream.DEQUANTIZE, "uniform")
    kept, end = rows(detected, "detection-test"), float(model.posed.num_steps)
    for k, t in enumerate(levels(model.sde, model.t_min, end)):
        there = noise.at(1 + k)
        for eps, draw, columns in (
            (noise_of(there, shape), 1 + k, ("norm", "curvature", "reconstruction")),
            (torch.zeros_like(x_0), 1 + k + few, ("dimension",)),
        ):
            found = at_level(model, model.sde, x_0, t, eps, probes_of(there.at(draw), shape, 1))
            for name in columns:
                expected = [kept[image][name][k] for image in (0, 1)]
                assert getattr(found, name).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_asked_again_the_network_is_not_asked_and_an_added_set_changes_no_score(
    digits, detected, tmp_path, monkeypatch
):
    run = Path(shutil.copytree(detected, tmp_path / "run"))
    looked, look = [], dataset_statistics._Images._looked_at

    def looked_at(self, numbers, progress):
        looked.extend(numbers)
        return look(self, numbers, progress)

    monkeypatch.setattr(dataset_statistics._Images, "_looked_at", looked_at)
    before = result(run)
    assert ask(run, f"data={digits / 'noise'},{digits / 'grey'}", *ALL) == 0
    assert looked == []
    again = result(run)
    assert again["scores"] == before["scores"]
    other = Path(shutil.copytree(digits / "grey", tmp_path / "lighter"))
    for path in other.iterdir():
        write(path, np.asarray(Image.open(path)) // 2 + 5)
    assert ask(run, f"data={other},{digits / 'noise'}", *ALL) == 0
    assert sorted(looked) == list(range(6))
    (third,) = (
        found
        for path in (run / "results").glob("detection*.json")
        if "lighter" in (found := json.loads(path.read_text()))["sets"]
    )
    for row, own in zip(third["scores"], before["scores"], strict=True):
        assert row["sets"]["noise"] == own["sets"]["noise"]
        assert row["shift"] == own["shift"]


def test_a_kill_costs_the_images_in_flight_alone(digits, detected, tmp_path, monkeypatch):
    """Two batches, then Ctrl-C; the same command makes the rest."""
    run = without_statistics(detected, tmp_path)
    asked = [f"data={digits / 'noise'}", *ALL, "batch_size=8"]
    looked, look = [], dataset_statistics._Images._looked_at

    def stopped(self, numbers, progress):
        if len(looked) == 2:
            raise KeyboardInterrupt
        looked.append(numbers)
        return look(self, numbers, progress)

    with monkeypatch.context() as patch:
        patch.setattr(dataset_statistics._Images, "_looked_at", stopped)
        assert ask(run, *asked) == 130
    kept = rows(run, "detection-reference")
    assert len(kept) == 16
    assert ask(run, *asked) == 0
    whole = rows(run, "detection-reference")
    assert len(whole) == 32
    assert all(whole[k] == kept[k] for k in kept)


def without_statistics(detected, tmp_path):
    """A copy whose likelihoods are there, and no more."""
    run = Path(shutil.copytree(detected, tmp_path / "run"))
    for path in (run / "results").glob("detection*"):
        path.unlink()
    return run


def test_a_reference_of_test_images_is_not_scored(digits, run):
    """The last 32 of 36 teach, and of the 8 that are measured the first 4 are scored."""
    assert ask(run, f"data={digits / 'noise'}", *ALL, "reference=test") == 0
    found, images = result(run), sf.load(run, "cpu").data.test
    assert found["num_images"] == 4
    assert found["reference"] == {"of": "test", "num_images": 32}
    heading = (run / "results" / "detection-reference.jsonl").read_text().splitlines()[0]
    assert json.loads(heading)["data"] == digest(images[4:])
    assert sorted(rows(run, "detection-test")) == list(range(4))
    # as many of the test set, and fewer of the other: another question, which replaces none
    assert ask(run, f"data={digits / 'noise'}", *ALL, "reference=test", "num_images=5") == 0
    kept = [json.loads(path.read_text()) for path in (run / "results").glob("detection*.json")]
    assert sorted(each["sets"]["noise"]["num_images"] for each in kept) == [5, 6]


def test_a_network_beyond_every_float_is_said_in_a_line(
    digits, detected, tmp_path, monkeypatch, capfd
):
    run = without_statistics(detected, tmp_path)
    real = dataset_statistics.path_moments
    monkeypatch.setattr(dataset_statistics, "path_moments", lambda *each: real(*each) * np.inf)
    assert ask(run, f"data={digits / 'noise'}", *ALL) == 1
    assert "32 of 32 images have statistics that are not finite" in capfd.readouterr().err
    assert not (run / "results" / "detection.json").exists()


def test_the_report_has_the_table_and_old_results_stay_readable(detected, capfd):
    page = (detected / "report.html").read_text()
    assert "Anomaly detection" in page
    assert "DiffPath" in page
    assert 'style="--shade: ' in page
    assert "is damaged" not in page
    assert "Images of each set" in page


@pytest.mark.slow
def test_two_processes_find_what_one_does(digits, detected, torchrun, tmp_path):
    run = Path(shutil.copytree(digits / "run", tmp_path / "run"))
    flags = [f"--config.likelihood.{each}" for each in ALL]
    sets = f"--config.likelihood.data={digits / 'noise'},{digits / 'grey'}"
    command = ["--mode=likelihood", f"--workdir={run}", "--device=cpu", sets, *flags]
    done = torchrun(2, Path(__file__).parents[4] / "run.py", *command)
    assert done.returncode == 0, done.stderr
    assert not list((run / "results").glob("*.rank*"))
    for row, alone in zip(result(run)["scores"], result(detected)["scores"], strict=True):
        for name in row["sets"]:  # batches differ, and with them the last bits
            assert row["sets"][name]["auroc"] == pytest.approx(
                alone["sets"][name]["auroc"], abs=0.05
            )
