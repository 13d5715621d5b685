"""Other codes: bytes are those of files on the disk, and every file gives the images back."""

import importlib.util
import io
import lzma
import math
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.data.levels import spread
from scoreflow.errors import RunError
from scoreflow.likelihood.compression import baselines
from scoreflow.likelihood.compression.baselines import CODES, JXL, PNG, WEBP

KINDS = [(17, (1, 8, 8)), (256, (3, 6, 5)), (4, (2, 4, 4)), (1000, (1, 5, 4))]


def images_of(num_levels, shape, count=7):
    generator = torch.Generator().manual_seed(3)
    wave = torch.rand(count, *shape, generator=generator) ** 3
    return (wave * num_levels).long().clamp(max=num_levels - 1)


def by_name(rows):
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize(("num_levels", "shape"), KINDS, ids=str)
def test_every_row_has_bytes_and_bits_or_says_why_not(num_levels, shape):
    levels, ticks = images_of(num_levels, shape), []
    rows = baselines.table(levels, num_levels, levels, lambda: ticks.append(1))
    assert len(rows) == baselines.count_of(levels) == len(ticks)
    for row in rows:
        assert row["kind"] == "baseline"
        if row["bytes"] is None:
            assert row["bits_per_dim"] is None
            assert row["note"] == baselines.DEEP
            assert num_levels > 256
        else:
            assert row["bits_per_dim"] == 8 * row["bytes"] / levels.numel()
    assert len(baselines.table(levels, num_levels)) == baselines.count_of()
    assert baselines.lines(rows).count("\n") == len(rows) - 1


def test_bytes_are_those_of_files_on_the_disk(tmp_path):
    levels = images_of(17, (1, 8, 8))
    rows = by_name(baselines.table(levels, 17))
    for code in CODES:
        sizes = {}
        for white in (False, True):
            pixels = (spread(levels, 17, 255) if white else levels)[:, 0].numpy().astype(np.uint8)
            options = dict(code.options)
            alone = []
            for k, picture in enumerate(pixels):
                path = tmp_path / f"{k}.{code.form.lower()}"
                Image.fromarray(picture).save(path, **options)
                alone.append(path.stat().st_size)
            path = tmp_path / f"all.{code.form.lower()}"
            Image.fromarray(np.concatenate(list(pixels))).save(path, **options)
            sizes[white] = (sum(alone), path.stat().st_size)
        assert rows[f"{code.name}, a file an image"]["bytes"] == min(s[0] for s in sizes.values())
        assert rows[f"{code.name}, stacked"]["bytes"] == min(s[1] for s in sizes.values())


def test_the_smaller_of_levels_and_of_their_spread_counts(monkeypatch):
    levels = images_of(17, (1, 8, 8))
    for sign, said in ((1, "levels as they are"), (-1, "levels spread to white")):
        size = lambda _code, picture, sign=sign: bytes(300 + sign * int(picture.max()))  # noqa: E731
        monkeypatch.setattr(baselines, "encoded", size)
        row = by_name(baselines.table(levels, 17))["PNG, stacked"]
        assert row["note"] == said
        assert row["bytes"] == 300 + (
            int(levels.max()) if sign > 0 else -spread(levels, 17, 255).max()
        )


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_picture_comes_back(code):
    for picture in (images_of(256, (3, 9, 7))[0].permute(1, 2, 0), images_of(9, (1, 5, 3))[0, 0]):
        content = baselines.encoded(code, picture.numpy().astype(np.uint8))
        back = np.asarray(Image.open(io.BytesIO(content)))
        assert (
            back.reshape(*picture.shape[:2], -1) == picture.reshape(*picture.shape[:2], -1).numpy()
        ).all()


def test_a_code_that_loses_something_is_found_out():
    noisy = images_of(256, (3, 16, 16))[0].permute(1, 2, 0).numpy().astype(np.uint8)
    lossy = baselines.Code("JPEG", "JPEG", {"quality": 50})
    with pytest.raises(RunError, match="gives another picture back"):
        baselines.encoded(lossy, noisy)


def test_a_stack_that_is_too_high_for_a_code_is_several_files(monkeypatch):
    levels = images_of(17, (1, 8, 8))
    low = baselines.Code(PNG.name, PNG.form, PNG.options, tallest=25)  # three images of eight rows
    monkeypatch.setattr(baselines, "CODES", (low,))
    row = by_name(baselines.table(levels, 17))["PNG, stacked"]
    assert "in 3 files of at most 25 rows" in row["note"]
    tall = baselines.Code(PNG.name, PNG.form, PNG.options, tallest=7)
    monkeypatch.setattr(baselines, "CODES", (tall,))
    row = by_name(baselines.table(levels, 17))["PNG, stacked"]
    assert (row["bytes"], row["note"]) == (None, "holds at most 7 pixels a side")


def test_without_the_plugin_a_row_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pillow_jxl" else found(name)
    )
    rows = by_name(baselines.table(images_of(17, (1, 8, 8)), 17))
    for name in (f"{JXL.name}, stacked", f"{JXL.name}, a file an image"):
        assert rows[name]["note"] == "not installed: pip install scoreflow-sde[jxl]"
        assert rows[name]["bytes"] is None
    assert rows[f"{WEBP.name}, stacked"]["bytes"] > 0


@pytest.mark.parametrize("num_levels", [2, 3, 17, 256, 257, 65536])
def test_packed_levels_can_be_read_bit_by_bit(num_levels):
    levels = np.random.default_rng(0).integers(0, num_levels, 50)
    bits = math.ceil(math.log2(num_levels))
    content = baselines.packed(levels, num_levels)
    text = "".join(f"{byte:08b}" for byte in content)
    assert len(content) == math.ceil(50 * bits / 8)
    assert [int(text[k * bits : (k + 1) * bits], 2) for k in range(50)] == levels.tolist()


def test_streams_are_those_of_the_libraries():
    levels = images_of(17, (1, 8, 8))
    rows = by_name(baselines.table(levels, 17))
    whole = levels.numpy().astype(np.uint8).tobytes()
    packed = baselines.packed(levels.flatten().numpy(), 17)
    best = min(len(zlib.compress(each, 9)) for each in (whole, packed))
    assert rows["zlib of the levels"]["bytes"] == best
    extreme = {"format": lzma.FORMAT_ALONE, "preset": 9 | lzma.PRESET_EXTREME}
    best = min(len(lzma.compress(each, **extreme)) for each in (whole, packed))
    assert rows["LZMA of the levels"]["bytes"] == best


def test_the_histogram_of_each_pixel_by_counting():
    train, levels = images_of(5, (1, 2, 3), 40), images_of(5, (1, 2, 3), 6)
    bits = 0.0
    for image in levels:
        for place in np.ndindex(1, 2, 3):
            count = int((train[(slice(None), *place)] == image[place]).sum())
            bits -= math.log2((count + 1) / (40 + 5))
    assert baselines.histogram_bits(train, levels, 5) == pytest.approx(bits, rel=1e-12)
    row = by_name(baselines.table(levels, 5, train))["histogram of each pixel"]
    assert row["bytes"] == math.ceil(bits / 8)
