"""FID and its like: what is missing is said in a line, and what torch-fidelity is asked."""

import sys
import types
from pathlib import Path

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.evaluation import fid
from scoreflow.factory.evaluation import build_judge

CPU = torch.device("cpu")


@pytest.fixture
def fidelity(monkeypatch):
    """A stand-in for the package: what it was asked, and scores that are counts."""
    asked = []

    class Extractor:
        def __init__(self, name, features, weights):
            asked.append((name, features, weights))
            if weights is None:
                raise OSError("Name or service not known\nat great length")
            assert weights.endswith(".pth")

    def calculate_metrics(**given):
        asked.append(given)
        return {
            "frechet_inception_distance": 10.0,
            "kernel_inception_distance_mean": 0.5,
            "kernel_inception_distance_std": 0.25,
            "inception_score_mean": 3.0,
            "inception_score_std": 0.6,
        }

    package = types.ModuleType("torch_fidelity")
    package.calculate_metrics = calculate_metrics
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    return asked


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    return str(path)


def test_what_is_asked_and_answered(fidelity, weights):
    score = fid.scores(weights, 17, CPU)
    levels = torch.arange(17, dtype=torch.uint8).repeat(40 * 4)[: 40 * 64].view(40, 1, 8, 8)
    found = score(levels, levels[:30])
    given = fidelity[-1]
    copy = Path(given["feature_extractor_weights_path"])
    assert copy != Path(weights)  # read once, and the tensors of that one reading handed on
    assert copy.parent.stat().st_mode & 0o077 == 0
    assert (given["fid"], given["kid"], given["isc"], given["cuda"]) == (True, True, True, False)
    assert given["kid_subset_size"] == 15
    image = given["input1"][1]
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.uint8
    assert torch.equal(image[0], image[2])
    whole = torch.stack([given["input1"][k] for k in range(40)])
    assert (int(whole.min()), int(whole.max())) == (0, 255)
    assert len(given["input2"]) == 30
    assert found == {
        "fid": 10.0,
        "kid": 0.5,
        "kid_error": 0.25,  # subsets of half: their spread is the whole's error
        "inception_score": 3.0,
        "inception_score_error": pytest.approx(0.2),  # of 10 splits
    }


def test_colour_stays(fidelity, weights):
    levels = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(fid.Images(levels, 256)[2], levels[2])


@pytest.mark.parametrize(
    ("asked", "levels", "says"),
    [
        ("download", 17, r"the download of the weights failed \(Name or service not known\)"),
        ("no/such/file", 17, "no such file no/such/file"),
        (__file__, 17, "does not fit"),
        ("download", None, "needs images; these data are vectors"),
    ],
)
def test_what_cannot_be_is_refused(fidelity, asked, levels, says):
    with pytest.raises(RequestError, match=says) as refused:
        fid.scores(asked, levels, CPU)
    assert "\n" not in str(refused.value)


def test_a_full_temporary_folder_is_no_fault_of_the_weights(fidelity, weights, monkeypatch):
    for error in (OSError(28, "No space left on device"), RuntimeError("failed writing file")):

        def full(*_, error=error):
            raise error

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(RequestError, match="set TMPDIR to a folder with") as refused:
            fid.scores(weights, 17, CPU)
        assert "does not fit" not in str(refused.value)
    assert fidelity == []


def test_a_missing_package_is_refused_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(RequestError, match=r"torch-fidelity .*pip install torch-fidelity"):
        fid.scores("download", 17, CPU)


def test_channels_that_inception_does_not_know_are_refused_at_once():
    images = torch.zeros(3, 4, 8, 8, dtype=torch.uint8)
    data = Data("four", images, images, 256, None, None)
    with pytest.raises(RequestError, match="knows grey and RGB images, got 4 channels"):
        build_judge("download", data, data, None)
