import math

import pytest

from scoreflow.data.sources.labels import numbered


def of(*splits, by="column `label`", names=(), sure=False):
    told = [(split, [f"{k}.png" for k in range(len(split))]) for split in splits]
    return numbered(told, by, names, sure)


def values(found):
    return None if found.labels is None else [each.tolist() for each in found.labels]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([0, 1, 1, 0], ("0", "1"), [0, 1, 1, 0]),
        ([7, 2, 10, 2, 7, 10], ("2", "7", "10"), [1, 0, 2, 0, 1, 2]),
        ([20_000_000_000, 5, 5, 5], ("5", "20000000000"), [1, 0, 0, 0]),
        (
            [2**64 - 1, 2**64 - 2, 2**64 - 2, 2**64 - 1],
            (str(2**64 - 2), str(2**64 - 1)),
            [1, 0, 0, 1],
        ),
        ([1.0, 0.0, 0.0, 1.0], ("0", "1"), [1, 0, 0, 1]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        (["10", "9", "9", "10"], ("9", "10"), [1, 0, 0, 1]),
        (["dog", "cat", "cat", "dog"], ("cat", "dog"), [1, 0, 0, 1]),
        (["class_10", "class_2"] * 2, ("class_2", "class_10"), [1, 0] * 2),
    ],
)
def test_distinct_labels_are_numbered_by_value_text_in_natural_order(labels, names, numbers):
    found = of(labels[:2], labels[2:])
    assert values(found) == [numbers[:2], numbers[2:]]
    assert found.names == names
    assert found.remark == f"{len(names)} classes by column `label`: {', '.join(names)}"


def test_names_of_classes_keep_their_numbers():
    found = of([2, 0, 2, 0], names=("ant", "bee", "cat"))
    assert values(found) == [[2, 0, 2, 0]]
    assert found.names == ("ant", "bee", "cat")
    assert of([3, 0, 3, 0], names=("ant", "bee", "cat")).names == ("0", "3")  # they do not fit


@pytest.mark.parametrize("none", [None, -1, math.nan, -1.0, ""])
def test_an_image_without_a_class_leaves_all_without_and_is_named(none):
    found = of([0, 1, 0, 1], [none, 0])
    assert values(found) is None
    assert found.remark == (
        "no classes: 1 of 6 images have none by column `label` (0.png), so all are taken without"
    )


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0.5, 1.0], "column `label` holds 0.5 \\(float\\)"),
        ([[0, 1], [1, 0]], "holds \\[0, 1\\] \\(list\\)"),
        ([{"a": 1}, {"a": 1}], "holds {'a': 1} \\(dict\\)"),
        ([0, "a"], "mixes text, numbers"),
        ([0, 1, 2, 3], "has 4 distinct values for 4 images, too many"),
    ],
)
def test_what_is_no_class_is_left_out_and_said(labels, why):
    found = of(labels)
    assert values(found) is None
    with pytest.raises(AssertionError, match=f"^no classes: .*{why}"):
        raise AssertionError(found.remark)


def test_many_values_are_classes_if_the_user_says_so_or_there_are_twice_as_many_images():
    assert values(of([5, 3, 4], sure=True)) == [[2, 0, 1]]
    assert values(of([5, 3, 5, 3])) == [[1, 0, 1, 0]]
    assert values(of([5, 3, 5])) is None
    many = list(range(10_001)) * 2
    assert values(of(many)) is None
    assert values(of(many, sure=True)) == [many]


def test_no_labels_at_all_are_worth_a_line_where_a_column_was_to_give_them():
    assert of([None, None], by="folder").remark == ""
    assert of([-1, None]).remark == "no classes: column `label` gives no image one"


def test_of_many_classes_the_first_and_the_last_are_listed():
    labels = list(range(20)) * 2
    assert of(labels, by="folder").remark == "20 classes by folder: 0, 1, 2, ..., 19"
    assert of([4, 4], by="folder").remark == "1 class by folder: 4"
