"""Bytes against distortion: of levels as a picture shows them, bytes as they are on the disk."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.likelihood.compression.progressive import rates
from scoreflow.likelihood.compression.progressive.rates import (
    QUALITIES,
    distortion,
    other_codes,
    row_of,
)
from scoreflow.likelihood.compression.progressive.states import Sent, State

LEVELS = (torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 17).long()


def test_distortion_is_in_units_of_a_picture():
    other = LEVELS.clone()
    other[0, 0, 0, 0] = (LEVELS[0, 0, 0, 0] + 2) % 17
    step = int(other[0, 0, 0, 0] - LEVELS[0, 0, 0, 0]) * 255 / 16
    assert distortion(other, LEVELS, 17) == pytest.approx(abs(step) / math.sqrt(LEVELS.numel()))
    assert distortion(LEVELS, LEVELS, 17) == 0


def test_a_row_counts_header_and_bits():
    x_0 = 2 * (LEVELS.double() + 0.5) / 17 - 1
    row = row_of(State(300, x_0, Sent(801, 200.0, 21, 0)), LEVELS, 17, header_bytes=50)
    assert row["bytes"] == 50 + 101
    assert row["bits_per_dim"] == 8 * 151 / 448
    assert row["divergence"] == pytest.approx(200 / math.log(2) / 448)
    assert (row["parts"], row["rmse"], row["psnr"]) == (3.0, 0.0, None)
    worse = row_of(State(300, x_0 + 2 / 17, Sent(801, 200.0, 21, 0)), LEVELS, 17, 50)
    assert worse["psnr"] == pytest.approx(20 * math.log10(255 / worse["rmse"]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 7, 9])
def test_images_of_a_sheet_come_back(channels, count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 5, channels)).astype(np.uint8)
    sheet, columns = rates._sheet(pixels)
    side = math.ceil(math.sqrt(count))
    assert sheet.shape == (-(-count // side) * 3, side * 5, channels)
    assert (sheet[:3, :5] == pixels[0]).all()
    assert (rates._images(sheet, columns, 3, 5)[:count] == pixels).all()


def test_rows_of_jpeg_are_what_a_file_has():
    rows = [row for row in other_codes(LEVELS, 17) if row["code"] == "JPEG"]
    assert [row["quality"] for row in rows] == list(QUALITIES)
    shown = ((LEVELS * 510 + 16) // 32)[:, 0].numpy().astype(np.uint8)
    sheet = np.zeros((3, 3, 8, 8), np.uint8)
    sheet.reshape(9, 8, 8)[:7] = shown
    stream = io.BytesIO()
    picture = Image.fromarray(np.block([list(row) for row in sheet]))
    picture.save(stream, format="JPEG", quality=QUALITIES[4])
    assert rows[4]["bytes"] == len(stream.getvalue())
    back = np.asarray(Image.open(stream), float).reshape(3, 8, 3, 8).transpose(0, 2, 1, 3)
    levels = np.rint(back.reshape(9, 8, 8)[:7] * 16 / 255)
    rmse = math.sqrt(((levels - LEVELS[:, 0].numpy()) ** 2).mean()) * 255 / 16
    assert rows[4]["rmse"] == pytest.approx(rmse, rel=1e-9)
    assert rows[0]["rmse"] > rows[-1]["rmse"]


def test_too_many_for_a_picture_are_several_and_some_images_are_no_picture(monkeypatch):
    whole = other_codes(LEVELS, 17)
    monkeypatch.setattr(rates, "WIDEST", 16)  # two by two
    parts = other_codes(LEVELS, 17)
    assert all(a["bytes"] < b["bytes"] for a, b in zip(whole, parts, strict=True))
    assert other_codes(LEVELS, 300) == []
    assert other_codes(LEVELS.repeat(1, 2, 1, 1), 17) == []
