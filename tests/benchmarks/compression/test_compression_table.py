"""The table of compressed images is made of the runs' own results."""

import json

from benchmarks.compression.__main__ import main

ROW = {
    "value": 2.1,
    "num_images": 5,
    "dims": 64,
    "bytes": {"file": 84, "images": 60.0, "borrowed": 12, "header": 12, "names": 0},
    "predicted": 1.5,
    "predicted_standard_error": 0.1,
    "net": 1.53,
    "net_minus_predicted": 0.03,
    "net_minus_predicted_error": 0.015,
    "seconds_per_image": {"encode": 0.25},
    "settings": {"steps": 4, "precision": 2, "batch_size": 1},
}


def test_a_row_a_measurement_most_images_first(tmp_path):
    results = tmp_path / "a-run" / "results"
    results.mkdir(parents=True)
    (results / "compression.json").write_text(json.dumps(ROW))
    (results / "compression-12345678.json").write_text(json.dumps({**ROW, "num_images": 7}))
    alone = {"predicted_standard_error": None, "net_minus_predicted_error": None}
    one = json.dumps({**ROW, **alone, "num_images": 1})
    (results / "compression-1234abcd.json").write_text(one)
    (results / "compression-laws-4.json").write_text("{}")
    assert main(["compression", str(tmp_path / "a-run"), f"--out={tmp_path / 'out'}"]) == 0
    lines = (tmp_path / "out" / "compression.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| a-run")]
    assert [row.split("|")[2].strip() for row in rows] == ["7", "5", "1"]
    assert "+2.00 ± 1.00" in rows[0]
    assert rows[0].endswith("| 0.250 | - |")
    kept = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert [row["run"] for row in kept["rows"]] == ["a-run"] * 3


def test_other_codes_stand_beside_the_smallest_file_of_the_most_images(tmp_path):
    results = tmp_path / "a-run" / "results"
    results.mkdir(parents=True)
    code = {"name": "PNG, stacked", "bytes": 1800, "bits_per_dim": 4.0, "note": "as they are"}
    gone = {"name": "JXL", "bytes": None, "bits_per_dim": None, "note": "not installed"}
    of_all = {**ROW, "predicted_bytes": 60.0, "baselines": [code, gone]}
    larger = {**of_all, "value": 2.5, "bytes": {**ROW["bytes"], "file": 100}}
    few = {**of_all, "num_images": 2, "bytes": {**ROW["bytes"], "file": 40}}
    for name, row in {"": larger, "-1": of_all, "-2": few}.items():
        (results / f"compression{name}.json").write_text(json.dumps(row))
    assert main(["compression", str(tmp_path / "a-run"), f"--out={tmp_path / 'out'}"]) == 0
    text = (tmp_path / "out" / "compression.md").read_text()
    _, told = text.split("## a-run: 5 test images\n\n")
    assert told.splitlines()[2:] == [
        "| ours | 84 | 2.1000 | K = 4, b = 2; of it 12 bytes lent, 12 header |",
        "| its images, predicted | 60 | 1.5000 |  |",
        "| PNG, stacked | 1,800 | 4.0000 | as they are |",
        "| JXL | - | - | not installed |",
    ]


def test_a_run_without_is_one_line(tmp_path, capsys):
    assert main(["compression", str(tmp_path), f"--out={tmp_path / 'out'}"]) == 2
    assert "has no results/compression.json" in capsys.readouterr().err
