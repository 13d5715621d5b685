"""--mode sample: what is saved, and that no draw replaces another's files."""

import json
import shutil

import numpy as np
import pytest
import torch

import scoreflow as sf
from scoreflow.cli.main import main
from tests.scoreflow.cli.test_editing import TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved") / "digits"
    assert main(["run.py", "--mode=train", f"--workdir={workdir}", *TINY]) == 0
    return workdir


@pytest.fixture
def digits(trained, tmp_path):
    """A copy of its own for each test."""
    return shutil.copytree(trained, tmp_path / "digits")


def draw(workdir, *more):
    flags = [f"--config.{key}" for key in more]
    base = ["run.py", "--mode=sample", "--sampler=ddim", f"--workdir={workdir}", "--device=cpu"]
    assert main([*base, *flags]) == 0
    results = [json.loads(p.read_text()) for p in (workdir / "results").glob("samples-ddim*.json")]
    return max(
        results,
        key=lambda each: (workdir / "samples" / f"{each['picture']}.png").stat().st_mtime_ns,
    )


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_other_settings_have_another_name(digits, capfd):
    first = draw(digits)
    assert first["picture"] == "00000004-ddim"
    drawn = [first]
    for more in (["sampling.seed=1"], ["sampling.steps=2"], ["sampling.num_images=3"]):
        before = tree(digits / "samples")
        capfd.readouterr()
        drawn.append(draw(digits, *more))
        key, value = more[0].removeprefix("sampling.").split("=")
        assert f"{key} {value}, not {first['settings'][key]}: " in capfd.readouterr().out
        after = tree(digits / "samples")
        assert {path: after[path] for path in before} == before
        assert after.keys() - before.keys() == {
            digits / "samples" / f"{drawn[-1]['picture']}{ending}" for ending in (".png", ".json")
        }
    names = [each["picture"] for each in drawn]
    assert len(set(names)) == 4
    page = (digits / "report.html").read_text()
    assert "Other measurements" in page
    headline = json.loads((digits / "results" / "samples-ddim.json").read_text())
    assert headline["num_images"] == 3  # the largest
    assert draw(digits, "sampling.steps=2")["picture"] == names[2]
    assert draw(digits)["picture"] == names[0]
    page = (digits / "report.html").read_text()
    assert "Draws with other settings" in page
    for name in names[1:]:
        assert f'href="samples/{name}.png"' in page


def test_other_weights_have_another_name(digits):
    """Of the same step: a run that was trained anew into its folder's copy."""
    before = draw(digits)["picture"]
    path = digits / "samples" / f"{before}.json"
    kept = json.loads(path.read_text())
    assert kept["weights"] == sf.load(digits, "cpu").fingerprint
    path.write_text(json.dumps({**kept, "weights": "another", "hash": "another"}))
    picture = (digits / "samples" / f"{before}.png").read_bytes()
    assert draw(digits)["picture"] != before
    assert (digits / "samples" / f"{before}.png").read_bytes() == picture


def test_a_picture_of_which_nothing_is_recorded_stays(digits):
    """As runs of earlier versions have them."""
    path = digits / "samples" / "00000004-ddim.png"
    path.write_bytes(b"of an earlier version")
    assert draw(digits)["picture"].startswith("00000004-ddim-")
    assert path.read_bytes() == b"of an earlier version"


def test_progress_belongs_to_its_draw(digits):
    first, second = draw(digits, "sampling.progressive=true"), None
    second = draw(digits, "sampling.progressive=true", "sampling.seed=5")
    assert first["picture"] != second["picture"]
    for name in (first["picture"], second["picture"]):
        assert (digits / "samples" / f"{name}-progress.gif").exists()
    assert second["picture"] in (digits / "report.html").read_text()


@pytest.mark.parametrize("save", ["png", "npz", "pt"])
def test_saved_samples_are_those_of_python(save, digits, capfd):
    plain = draw(digits, "sampling.num_images=13", "sampling.batch_size=4")
    capfd.readouterr()
    found = draw(
        digits, f"sampling.save={save}", "sampling.num_images=13", "sampling.batch_size=4"
    )
    folder = digits / "samples" / found["picture"]
    assert str(folder) in capfd.readouterr().out
    assert found["picture"] == plain["picture"]  # the same samples
    assert found["saved"] == {"as": save, "measured": 13}
    for key in ("nfe", "value", "two_sample", "classes", "num_images", "data"):
        assert found[key] == plain[key], key
    levels = sf.load(digits, "cpu").sample(13, sampler="ddim", batch_size=4)
    pixels = np.round(levels.permute(0, 2, 3, 1).numpy() * (255 / 16)).astype(np.uint8)
    if save == "pt":
        assert torch.equal(torch.load(folder / "samples.pt", weights_only=True), levels)
    elif save == "npz":
        assert np.array_equal(np.load(folder / "samples.npz")["arr_0"], pixels)
    else:
        assert len(list(folder.glob("*.png"))) == 13
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["weights"] == sf.load(digits, "cpu").fingerprint
    draw(digits, f"sampling.save={save}", "sampling.num_images=13", "sampling.batch_size=4")
    assert "13 images were there already" in capfd.readouterr().out
    assert f"all as {save} in samples/{found['picture']}/" in (digits / "report.html").read_text()


def test_sample_to_goes_on_and_refuses(digits, tmp_path):
    run = sf.load(digits, "cpu")
    path = run.sample_to(tmp_path / "out", 9, sampler="ddim", save="pt", steps=2, batch_size=4)
    expected = run.sample(9, sampler="ddim", steps=2, batch_size=4)
    assert torch.equal(torch.load(path, weights_only=True), expected)
    again = {"sampler": "ddim", "save": "png", "steps": 2, "batch_size": 4}
    assert run.sample_to(tmp_path / "out", 9, **again) == tmp_path / "out"
    with pytest.raises(sf.RequestError, match=r"steps 3, not 2\): choose another folder"):
        run.sample_to(tmp_path / "out", 9, **{**again, "steps": 3})
    with pytest.raises(sf.RequestError, match="saved as png, npz, pt, got 'grid'"):
        run.sample_to(tmp_path / "out", 9, **{**again, "save": "grid"})
    with pytest.raises(sf.RequestError, match="sample_to writes files"):
        run.sample(9, save="png")


def edit(workdir, task, save, *more):
    argv = ["run.py", "--mode=sample", f"--workdir={workdir}", "--device=cpu"]
    flags = [
        f"--config.{key}" for key in (f"sampling.task={task}", f"sampling.save={save}", *more)
    ]
    assert main([*argv, *flags]) == 0
    result = json.loads((workdir / "results" / f"{task}.json").read_text())
    assert result["saved"] == {"as": save, "file": f"{result['picture']}.{save}"}
    assert f"Arrays: samples/{result['saved']['file']}" in (workdir / "report.html").read_text()
    return workdir / "samples" / result["saved"]["file"]


def test_an_edited_image_keeps_its_arrays(digits):
    """Latents are those of `encode`, and decode to the images."""
    run = sf.load(digits, "cpu")
    given = run.data.test[:2]
    latents = run.encode(given)
    pixels = np.round(given.permute(0, 2, 3, 1).numpy() * (255 / 16)).astype(np.uint8)
    found = np.load(edit(digits, "reconstruct", "npz", "control.count=2"))
    assert set(found) == {"images", "given", "latents"}
    assert found["latents"].dtype == np.float64
    np.testing.assert_allclose(found["latents"], latents.numpy(), rtol=0, atol=1e-9)
    assert np.array_equal(found["given"], pixels)
    assert np.array_equal(found["images"], pixels)  # which the flow gives back, off by far less
    again = torch.load(edit(digits, "interpolate", "pt", "control.count=3"), weights_only=True)
    assert torch.equal(again["given"], given)
    assert again["images"].dtype == torch.uint8
    torch.testing.assert_close(again["latents"][[0, 2]], latents, rtol=0, atol=1e-9)
    assert torch.equal(run.decode(again["latents"]), again["images"])
    varied = np.load(edit(digits, "vary", "npz", "control.count=2"))
    assert set(varied) == {"images", "given"}
    assert varied["images"].shape == (2, 8, 8, 1)


def test_an_edited_image_is_not_saved_one_by_one(digits, capfd):
    argv = ["run.py", "--mode=sample", f"--workdir={digits}", "--config.sampling.task=vary"]
    assert main([*argv, "--config.control.image=test:0", "--config.sampling.save=png"]) == 2
    assert "sampling.save has no effect on sampling.task = vary" in capfd.readouterr().err
