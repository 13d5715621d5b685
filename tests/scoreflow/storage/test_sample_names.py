"""How settings differ, in a few words that tell them apart."""

import pytest

from scoreflow.storage.sample_names import differences


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("network", "", "network, not none"),
        (1, -1, "1, not -1"),
        ("/tmp/user/masks/left.png", "/tmp/user/masks/right.png", "left.png, not right.png"),
        ("/tmp/user/a/mask.png", "/tmp/user/b/mask.png", None),  # both whole
        ("", "/tmp/user/masks/right.png", "none, not right.png"),
        ("0123456789abcdefgh", "another456789abcdefgh", "01234567..., not another4..."),
        ("0123456789abcdefgh", "0123456789abcdefgi", None),
        ("0123456789abcdefgh", "01234567", None),
    ],
)
def test_two_values_are_told_apart(one, other, told):
    told = f"{one}, not {other}" if told is None else told
    assert differences({"key": one, "same": 3}, {"key": other, "same": 3}) == f"key {told}"
