"""Sets of other images are what they are called, and the same each time."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.anomaly.__main__ import main
from benchmarks.anomaly.sets import (
    DIGITS,
    FORMATS,
    MAKERS,
    MNIST,
    SETS,
    Sources,
    images,
    written,
)


def sources(form):
    rng = np.random.default_rng(0)
    own = rng.integers(0, form.levels, (5, form.side, form.side), dtype=np.uint8)
    made = Sources(form, own, None, None)
    vars(made)["handwritten"] = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    vars(made)["natural"] = rng.integers(0, 256, (5, 32, 32), dtype=np.uint8)
    return made


@pytest.mark.parametrize("form", [DIGITS, MNIST], ids=["digits", "mnist"])
@pytest.mark.parametrize("name", MAKERS)
def test_images_have_their_format_and_are_functions_of_their_number(name, form):
    of = sources(form)
    five = list(images(name, of, 5))
    for image in five:
        assert image.shape == (form.side, form.side) or name == "digits"
        assert image.dtype == np.uint8
        assert int(image.max()) < form.levels
    for few, many in zip(images(name, of, 3), five, strict=False):
        np.testing.assert_array_equal(few, many)


def test_sets_are_what_they_are_called():
    of = sources(DIGITS)
    for k, (turned, shuffled) in enumerate(
        zip(images("turned", of, 5), images("shuffled", of, 5), strict=True)
    ):
        np.testing.assert_array_equal(np.rot90(of.own[k]), turned)
        np.testing.assert_array_equal(np.sort(of.own[k], axis=None), np.sort(shuffled, axis=None))
        assert (shuffled != of.own[k]).any()
    assert all(np.ptp(image) == 0 for image in images("constant", of, 5))
    letters = list(images("letters", of, 26))
    assert len({image.tobytes() for image in letters}) == 26
    assert all(image.max() > 10 and image[0, 0] == 0 for image in letters[8:9])  # an I


def test_every_run_has_sets_in_both_directions(tmp_path):
    for kind, names in SETS.items():
        assert {"noise", "constant", "letters"} < set(names) <= set(MAKERS)
        assert FORMATS[kind] in (DIGITS, MNIST)
    at = written("constant", sources(DIGITS), 3, tmp_path)
    assert [np.ptp(np.asarray(Image.open(path))) for path in sorted(at.iterdir())] == [0, 0, 0]
    assert len(list(written("constant", sources(DIGITS), 2, tmp_path).iterdir())) == 2


def test_what_cannot_be_made_is_a_line(capsys, tmp_path):
    for argv, says in (
        ([], "--run KIND=DIR names a trained run"),
        (["--run", "cats=x"], "KIND one of digits, mnist, natural, got 'cats=x'"),
        (["--natural", str(tmp_path / "n")], "name its folder by --cifar10"),
    ):
        assert main(["anomaly", *argv]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert says in err
