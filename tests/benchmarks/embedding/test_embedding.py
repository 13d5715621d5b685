"""The benchmark of labels: its pairs, and what it says where a training is missing."""

import math

import pytest

from benchmarks.embedding.__main__ import LABELS, Found, difference, main, row, text_of
from scoreflow.configs import digits
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve


def found(bits, evaluations=64.0, error=1e-3):
    return Found(bits, [evaluations, 2 * evaluations], [[error, -error], [0.0, error]])


def test_a_difference_is_of_the_seeds_that_both_have():
    """Error by images .04 / 2, by seeds .1."""
    first = {0: found([1.0, 3.0]), 1: found([2.0, 4.0]), 2: found([9.0, 9.0])}
    other = {0: found([1.52, 3.48]), 1: found([2.32, 4.28])}
    told = difference(other, first)
    assert told["minus_index"] == pytest.approx(0.4)
    of_images = 0.04 / math.sqrt(2) / math.sqrt(2)
    assert told["minus_index_error"] == pytest.approx(math.hypot(of_images, 0.1))
    assert told["pairs_of_seeds"] == 2
    alone = difference({0: other[0]}, first)
    assert alone["minus_index_error"] is None  # one training says nothing of the next


def test_rows_are_means_over_seeds():
    first = {0: found([1.0, 3.0]), 1: found([2.0, 4.0])}
    told = row("index", first, first)
    assert told["bits"] == pytest.approx(2.5)
    assert told["bits_of_seeds"] == {0: 2.0, 1: 3.0}
    assert "minus_index" not in told
    assert told["at 0.001"]["rms_error"] == pytest.approx(1e-3)
    assert told["at 0.001"]["mean_error"] == pytest.approx(0, abs=1e-9)
    assert told["at 0.0001"]["evaluations"] == [128.0, 128.0]
    assert "| `index` | 2.5000 ± 1.0000 | 2.0000, 3.0000 |" in text_of([told])


@pytest.mark.parametrize("name", LABELS)
def test_each_label_is_a_config_of_the_digits(name):
    resolve(flatten(digits.get_config().to_dict()) | LABELS[name], "the test")


@pytest.mark.parametrize("labels", ["scaled,index", "index,sigma"])
def test_labels_are_refused_in_one_line(labels, capsys, tmp_path):
    assert main(["embedding", "--labels", labels, "--work", str(tmp_path)]) == 2
    assert "--labels must be of index, scaled, log_snr, index first" in capsys.readouterr().err
    assert main(["embedding", "--trained", "--work", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("embedding: --trained: ")
