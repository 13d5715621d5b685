"""What a draw says of itself, and what it keeps of the data beside it."""

import base64
import io

import pytest
import torch
from PIL import Image

from scoreflow.data.loading import load_digits
from scoreflow.data.toy import distribution, load
from scoreflow.evaluation.sample_summary import draw
from scoreflow.generation.plan import SamplingPlan
from scoreflow.samplers import Ancestral, Clipped, grid
from scoreflow.sde import VPSDE

SDE = VPSDE.cosine(20)


def drawn(num_images):
    drawing = SamplingPlan(
        Ancestral("beta"), grid("uniform", SDE, 4), distribution().denoiser(SDE)
    )
    return draw(drawing, "ancestral", SDE, load(), 0, num_images, 64)


def test_few_images_make_no_claim():
    found = drawn(9)
    assert found.result["value"] is None
    assert found.result["standard_error"] is None
    assert "a comparison with data needs 10 images" in found.line


def test_the_line_gives_the_worse_rate_and_both():
    found = drawn(10)
    sides, real = found.result["two_sample"], found.result["two_sample_of_test_data"]
    assert found.result["standard_error"] > 0.05
    assert (
        f"(0 is best, 0.5 worst, held-out data {real['told_apart']:.3f}), as samples are "
        f"recognised {sides['samples_recognised']:.2f} and data {sides['real_recognised']:.2f}"
    ) in found.line


def test_test_data_are_kept_beside_vectors():
    found = drawn(10).result
    assert not found["clipped"]
    assert found["data"]["num_shown"] == 10
    assert found["data"].keys() == {"picture_of_test_data", "num_test", "num_shown"}
    assert Image.open(io.BytesIO(base64.b64decode(found["data"]["picture_of_test_data"])))


def test_test_data_are_kept_beside_images():
    data = load_digits()

    def grey(x_t, t):
        return None

    class Grey:
        """Draws what is asked of it in one step: the middle level."""

        def step(self, x_t, step):
            return torch.zeros_like(x_t)

    drawing = SamplingPlan(Grey(), grid("uniform", SDE, 1), Clipped(grey))
    found = draw(drawing, "grey", SDE, data, 0, 70, 64)
    assert found.result["clipped"]
    assert found.result["two_sample"]["samples_recognised"] == 1
    real = found.result["data"]
    assert (real["num_test"], real["num_shown"]) == (len(data.test), 64)
    assert real["classes"] == torch.bincount(data.test_labels).tolist()
    assert real["histogram_bits_per_dim"] == pytest.approx(2.42, abs=0.01)  # measured by others
    size = Image.open(io.BytesIO(base64.b64decode(real["picture_of_test_data"]))).size
    assert size == Image.open(io.BytesIO(found.picture)).size
