"""Samples in a folder: what a draw in memory gives, whatever interrupts or shares the work."""

import os
import signal
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.data.dataset import Data
from scoreflow.data.levels import dtype_of, quantize
from scoreflow.errors import RequestError
from scoreflow.generation import sample_folder
from scoreflow.generation.generate import draw_samples
from scoreflow.generation.plan import SamplingPlan
from scoreflow.generation.sample_folder import Draw, fill, first_values
from scoreflow.samplers import grid
from scoreflow.samplers.ancestral import Ancestral
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.vp import VPSDE

STEPS = 4
SETTINGS = {"sampler": "ancestral", "seed": 3, "num_images": 11}
FILES = {"png": "00000010.png", "npz": "samples.npz", "pt": "samples.pt"}
SCRIPT = """
import sys
from pathlib import Path
from tests.scoreflow.generation import test_sample_folder as test
from scoreflow.runtime import distributed
test.fill(Path(sys.argv[1]), sys.argv[2], test.images(int(sys.argv[3])), test.SETTINGS)
distributed.leave()
"""


def of_shape(event, levels, count=11, label=-1, batch_size=3):
    """Samples of N(0.3, 0.25) a pixel, by arithmetic that no batch changes."""
    sde = VPSDE.cosine(20)

    def denoise(x_t, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha * 0.25 / (alpha * alpha * 0.25 + sigma * sigma)
        return predict(sde, x_t, t, "x_0", 0.3 + gain * (x_t - alpha * 0.3))

    plan = SamplingPlan(Ancestral("beta"), grid("uniform", sde, STEPS), denoise, label=label)
    like = torch.zeros(1, *event, dtype=dtype_of(levels) if levels else torch.float32)
    data = Data("like", like, like, levels, None, None)
    return Draw("ancestral", plan, sde, data, 3, count, batch_size)


def images(count=11, levels=256, channels=3):
    return of_shape((channels, 8, 4), levels, count)


def in_memory(draw):
    noise = Noise.of(draw.seed, 0, draw.num_images)
    return draw_samples(draw.plan, draw.sde, noise, draw.event, 100, draw.name)


def tree(folder):
    """Every file's bytes; of the lines about batches, which hold seconds, only which there are."""
    return {
        path.name: path.read_bytes().count(b"\n") if path.suffix == ".jsonl" else path.read_bytes()
        for path in sorted(folder.iterdir())
    }


@pytest.mark.parametrize("levels", [256, 17, 2])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_is_saved_is_what_is_drawn(levels, channels, tmp_path):
    draw = images(levels=levels, channels=channels)
    expected = quantize(in_memory(draw), levels)
    pixels = np.round(expected.numpy() * (255 / (levels - 1))).astype(np.uint8)
    for save in FILES:
        stored = fill(tmp_path, save, draw, SETTINGS)
        assert (stored.evaluations, stored.drawn) == (11 * STEPS, 11)
        assert torch.equal(first_values(tmp_path, save, draw, 5), expected[:5])
    assert torch.equal(torch.load(tmp_path / "samples.pt", weights_only=True), expected)
    with np.load(tmp_path / "samples.npz") as archive:
        assert list(archive) == ["arr_0"]
        found = archive["arr_0"]
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels.transpose(0, 2, 3, 1))
    for k in range(11):
        with Image.open(tmp_path / f"{k:08d}.png") as shown:
            assert shown.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
            assert np.array_equal(np.asarray(shown).reshape(8, 4, channels), found[k])


@pytest.mark.parametrize("levels", [4096, 65536])
def test_more_levels_than_256_are_kept_exactly(levels, tmp_path):
    draw = images(levels=levels, channels=1)
    expected = quantize(in_memory(draw), levels)
    assert expected.max() > 255
    for save in FILES:
        fill(tmp_path, save, draw, SETTINGS)
        found = first_values(tmp_path, save, draw, 5)
        assert found.dtype == torch.int32
        assert torch.equal(found, expected[:5])
    assert torch.equal(torch.load(tmp_path / "samples.pt", weights_only=True), expected)
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive["arr_0"].dtype == np.uint16
        assert np.array_equal(archive["arr_0"], expected.numpy().transpose(0, 2, 3, 1))
    with Image.open(tmp_path / "00000003.png") as shown:
        assert shown.mode == "I;16"
        grey = np.round(expected[3, 0].numpy() * (65535 / (levels - 1)))
        assert np.array_equal(np.asarray(shown), grey)
    with pytest.raises(RequestError, match="more than 256 levels of grey images alone"):
        fill(tmp_path / "rgb", "png", images(levels=levels), SETTINGS)


def test_a_class_is_told_as_the_evaluator_reads_it(tmp_path):
    draw = of_shape((1, 2, 2), 256, label=7)
    with np.load(fill(tmp_path, "npz", draw, SETTINGS).path) as archive:
        assert list(archive) == ["arr_0", "arr_1"]
        assert np.array_equal(archive["arr_1"], np.full(11, 7))
        assert archive["arr_1"].dtype == np.int64


def test_files_are_whole_archives_and_can_be_mapped(tmp_path):
    for save in ("npz", "pt"):
        with zipfile.ZipFile(fill(tmp_path, save, images(), SETTINGS).path) as archive:
            assert archive.testzip() is None
    mapped = torch.load(tmp_path / "samples.pt", weights_only=True, mmap=True)
    assert mapped.data_ptr() % 64 == 0
    assert sorted(tree(tmp_path)) == [
        "progress-npz.jsonl",
        "progress-pt.jsonl",
        "samples.npz",
        "samples.pt",
        "settings.json",
    ]


def test_vectors_are_a_tensor_file_alone(tmp_path):
    draw = of_shape((2,), None)
    fill(tmp_path, "pt", draw, SETTINGS)
    found = torch.load(tmp_path / "samples.pt", weights_only=True)
    assert torch.equal(found, in_memory(draw))
    assert found.dtype == torch.float64
    for save in ("png", "npz"):
        with pytest.raises(RequestError, match="save them as pt"):
            fill(tmp_path, save, draw, SETTINGS)
    with pytest.raises(RequestError, match="saved as png, npz, pt, got 'gif'"):
        fill(tmp_path, "gif", draw, SETTINGS)


def killed_after(point, folder, save):
    """Fill a folder in another process, which is killed as it has written so many batches."""
    if (pid := os.fork()) == 0:
        put, written = sample_folder._put, []

        def deadly(files, start, values):
            put(files, start, values)
            written.append(start)
            if len(written) > point:
                os.kill(os.getpid(), signal.SIGKILL)

        sample_folder._put = deadly
        fill(folder, save, images(), SETTINGS)
        os._exit(0)  # never after a kill
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("save", FILES)
@pytest.mark.parametrize("point", [0, 2, 5])
def test_a_killed_draw_goes_on_after_what_is_done(save, point, tmp_path, monkeypatch):
    """Killed with images written whose row is not, and rows of earlier batches are."""
    whole, draw = tmp_path / "whole", images()
    fill(whole, save, draw, SETTINGS)
    assert killed_after(point, tmp_path / "killed", save) == (point < 4)
    stored = fill(tmp_path / "killed", save, draw, SETTINGS)
    assert stored.drawn == max(0, 11 - 3 * point)
    assert stored.evaluations == 11 * STEPS
    assert tree(tmp_path / "killed") == tree(whole)
    assert fill(tmp_path / "killed", save, draw, SETTINGS).drawn == 0


def test_images_that_are_gone_are_drawn_again(tmp_path):
    for save, name in FILES.items():
        folder = tmp_path / save
        fill(folder, save, images(), SETTINGS)
        before = tree(folder)
        (folder / name).unlink()
        assert fill(folder, save, images(), SETTINGS).drawn > 0
        after = tree(folder)
        lines = f"progress-{save}.jsonl"
        assert after.pop(lines) >= before.pop(lines)  # of two rows the later counts
        assert after == before
    (tmp_path / "png" / "00000001.png").write_bytes(b"")  # its bytes lost with the power
    assert fill(tmp_path / "png", "png", images(), SETTINGS).drawn == 3


DAMAGES = {
    "torn": lambda data: data[: len(data) // 2],
    "one byte": lambda data: data[: len(data) // 2] + b"?!" + data[len(data) // 2 + 2 :],
    "text": lambda data: b"text",
    "twice": lambda data: data + data,
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("save", FILES)
def test_images_that_are_damaged_are_drawn_again_with_a_line(save, tmp_path, capsys):
    folder, path = tmp_path / save, tmp_path / save / FILES[save]
    fill(folder, save, images(), SETTINGS)
    whole = path.read_bytes()
    fill(tmp_path / "grey", save, images(channels=1), SETTINGS)
    other = (tmp_path / "grey" / FILES[save]).read_bytes()
    for damage in [*DAMAGES.values(), lambda _: other]:
        path.write_bytes(damage(whole))
        capsys.readouterr()
        assert fill(folder, save, images(), SETTINGS).drawn == (2 if save == "png" else 11)
        assert path.read_bytes() == whole
        line = f"{path.parent if save == 'png' else path}: "
        assert capsys.readouterr().err.startswith(line)
    assert fill(folder, save, images(), SETTINGS).drawn == 0
    assert capsys.readouterr().err.count("drawn again") == 0


def test_rows_that_were_cut_off_are_drawn_again(tmp_path):
    fill(tmp_path / "whole", "pt", images(), SETTINGS)
    killed_after(2, tmp_path / "hurt", "pt")
    (raw,) = (tmp_path / "hurt").glob("*.part")
    raw.write_bytes(raw.read_bytes()[:100])
    assert fill(tmp_path / "hurt", "pt", images(), SETTINGS).drawn == 11
    name = FILES["pt"]
    assert (tmp_path / "hurt" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("save", ["npz", "pt"])
@pytest.mark.parametrize("point", [None, 0, 2])
def test_a_finished_file_is_never_made_of_one_batch(save, point, tmp_path):
    """One row is damaged, or the file is gone, and the drawing that follows is killed."""
    fill(tmp_path / "whole", save, images(), SETTINGS)
    whole, folder = tree(tmp_path / "whole"), tmp_path / "hurt"
    for gone in (False, True):
        fill(folder, save, images(), SETTINGS)
        path = folder / f"progress-{save}.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"batch": 1', b'"batch": 7'))
        if gone:
            (folder / FILES[save]).unlink()
        if point is not None:
            killed_after(point, folder, save)
        fill(folder, save, images(), SETTINGS)
        assert tree(folder) == whole


@pytest.mark.parametrize(
    ("world", "save"), [(2, "png"), (2, "npz"), pytest.param(6, "pt", marks=pytest.mark.slow)]
)
def test_processes_together_make_the_folder_of_one(save, world, forked, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = forked(world, script, str(tmp_path / "shared"), save, "11")
    assert done.returncode == 0, done.stderr
    fill(tmp_path / "alone", save, images(), SETTINGS)
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def test_what_one_process_left_several_complete(forked, tmp_path, monkeypatch):
    """And the other way: rows of all processes count for whoever goes on."""
    fill(tmp_path / "alone", "png", images(), SETTINGS)
    fill(tmp_path / "shared", "png", images(), SETTINGS)
    (tmp_path / "shared" / "00000004.png").unlink()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert forked(2, script, str(tmp_path / "shared"), "png", "11").returncode == 0
    shared, alone = tree(tmp_path / "shared"), tree(tmp_path / "alone")
    del shared["progress-png.jsonl"], alone["progress-png.jsonl"]
    assert shared == alone


def test_another_batch_size_draws_anew(tmp_path):
    for save in FILES:
        fill(tmp_path, save, images(), SETTINGS)
    before = tree(tmp_path)
    for save in FILES:
        draw = of_shape((3, 8, 4), 256, batch_size=2)
        assert fill(tmp_path, save, draw, SETTINGS).drawn == 11
        before[f"progress-{save}.jsonl"] = 1 + 6
    assert tree(tmp_path) == before


def test_a_folder_of_other_settings_is_refused(tmp_path):
    fill(tmp_path, "png", images(), SETTINGS)
    before = tree(tmp_path)
    other = {**SETTINGS, "seed": 4}
    with pytest.raises(RequestError, match=r"other settings \(seed 4, not 3\): choose another"):
        fill(tmp_path, "npz", images(), other)
    assert tree(tmp_path) == before


def peak(count, save, tmp_path, forked):
    """Peak memory of a process that draws so many images, in MB."""
    script = tmp_path / "peak.py"
    script.write_text(
        "import sys, resource; from pathlib import Path\n"
        "from tests.scoreflow.generation import test_sample_folder as test\n"
        f"draw = test.of_shape((3, 16, 16), 256, {count}, batch_size=250)\n"
        f"stored = test.fill(Path({str(tmp_path / str(count))!r}), {save!r}, draw, {{}})\n"
        f"test.first_values(Path({str(tmp_path / str(count))!r}), {save!r}, draw, 100)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = forked(1, script)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("save", ["npz", pytest.param("pt", marks=pytest.mark.slow)])
def test_memory_is_that_of_a_batch(save, tmp_path, forked):
    """Ten thousand images are 61 MB of points; two runs of one process differ by 10 MB."""
    most, few = (peak(count, save, tmp_path, forked) for count in (10_000, 500))
    assert most < few + 20


@pytest.mark.slow
@pytest.mark.parametrize("save", FILES)
def test_fifty_thousand_images(save, tmp_path, forked):
    """A file of 38 MB, which is never in memory."""
    most, few = (peak(count, save, tmp_path, forked) for count in (50_000, 500))
    assert most < few + 20
