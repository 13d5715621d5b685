"""What a run allows to change, and what it refuses, follows from the declarations of the keys."""

from pathlib import Path

import pytest

from scoreflow.errors import RequestError
from scoreflow.schema.config import KEYS, Config, belongs_to_weights
from scoreflow.schema.request import Request, flatten
from scoreflow.schema.resolve import evaluation_config, resumed_config

SAVED = flatten(Config().to_dict()) | {
    "data.name": "images",
    "data.path": "here",
    "model.conditional": True,
    "training.compile": True,
}
WHERE = Path("run/config.json")


def request(overrides, mode="train", config=None):
    return Request(mode, Path("run"), "", "mine", config or SAVED, overrides, config is not None)


def another(name):
    """A value that a key may have and has not."""
    key, value = KEYS[name], SAVED[name]
    many = isinstance(value, list)
    one = value[0] if many else value
    if key.choices:
        found = next(each for each in key.choices if each != one)
    elif isinstance(one, bool):
        found = not one
    elif isinstance(one, str):
        found = one + "x"
    else:
        near = (one + 1, one - 1, one * 2, one / 2, one + 1e-3)
        found = next(v for v in near if type(v) is type(one) and v != one and v in key.limits)
    return [found, *value[1:]] if many else found


@pytest.mark.parametrize("name", sorted(KEYS))
def test_each_key_changes_on_resuming_or_is_refused_by_its_name(name):
    if name.endswith(".step"):
        pytest.skip("refused before, by training_config")
    asked = {name: another(name)}
    if not belongs_to_weights(name) or KEYS[name].changes:
        config, changes = resumed_config(request(asked), SAVED, WHERE)
        assert changes == {name: [SAVED[name], asked[name]]}
        assert flatten(config.to_dict()) == {**SAVED, **asked}
    else:
        with pytest.raises(RequestError, match=rf"another config: {name} \("):
            resumed_config(request(asked), SAVED, WHERE)


def test_the_same_again_changes_nothing():
    assert resumed_config(request({"training.num_steps": 800_000}), SAVED, WHERE)[1] == {}


def test_an_experiment_that_is_named_again_takes_back_no_change():
    changed = {**SAVED, "training.learning_rate": 1e-4}
    reason = r"learning_rate \(0\.0001 there, 0\.0002 asked\)"
    with pytest.raises(RequestError, match=reason) as no:
        resumed_config(request({}, config=SAVED), changed, WHERE)
    assert "resume without --config, change a key by its own flag" in str(no.value)
    own = {"training.learning_rate": 2e-4}
    _, changes = resumed_config(request(own, config=SAVED), changed, WHERE)
    assert changes == {"training.learning_rate": [1e-4, 2e-4]}


def test_what_is_fixed_names_how_to_begin_anew_with_the_weights():
    with pytest.raises(RequestError, match=r"--config\.training\.init=run, or choose another"):
        resumed_config(request({"training.objective": "p2"}), SAVED, WHERE)
    with pytest.raises(RequestError) as refused:
        resumed_config(request({"model.channels": 64}), SAVED, WHERE)
    assert "training.init" not in str(refused.value)


def test_after_training_data_may_lie_elsewhere_by_a_flag_alone():
    moved = evaluation_config(request({"data.path": "there"}, "sample"), SAVED, WHERE)
    assert moved.data.path == "there"
    file = {**SAVED, "data.path": "of the file"}
    kept = evaluation_config(request({}, "sample", file), SAVED, WHERE)
    assert kept.data.path == SAVED["data.path"]
    with pytest.raises(RequestError, match=r"data\.size belongs to the trained weights"):
        evaluation_config(request({"data.size": "32"}, "sample"), SAVED, WHERE)
