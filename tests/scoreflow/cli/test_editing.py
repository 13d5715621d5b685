"""Tasks on the user's image, from the command line: what they leave, and what they refuse."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.cli.main import main
from scoreflow.configs import default
from scoreflow.data.dataset import Data
from scoreflow.data.levels import from_uint8, to_uint8
from scoreflow.data.loading import load_digits
from scoreflow.data.reading.user_images import read_images, read_mask
from scoreflow.errors import RequestError
from scoreflow.factory.editing import build_control
from scoreflow.factory.sampling import SAMPLERS
from scoreflow.generation.plan import SamplingPlan
from scoreflow.samplers import Ancestral, Clipped, Counted, grid, sample
from scoreflow.schema import request, resolve
from scoreflow.schema.task_keys import METHODS, TASKS
from scoreflow.sde.analytic import gaussian
from scoreflow.sde.noise import Noise
from scoreflow.sde.processes.vp import VPSDE
from scoreflow.storage.run_folder import RunDir

TINY = [
    "--device=cpu",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=4",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.sampling.num_images=2",
    "--config.sampling.steps=3",
    "--config.sampling.tolerance=0.03",
    "--config.likelihood.num_images=2",
    "--config.likelihood.nodes=8",
    "--config.likelihood.checked=0",
]


def picture_of(workdir, task):
    """Where the last result of a task says that its picture is."""
    name = json.loads((workdir / "results" / f"{task}.json").read_text())["picture"]
    assert name.startswith(f"00000004-{task}")
    return workdir / "samples" / f"{name}.png"


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("control") / "digits"
    assert main(["run.py", "--mode=train", f"--workdir={workdir}", *TINY]) == 0
    return workdir


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("control") / "toy"
    small = [a for a in TINY if "channels" not in a and "groups" not in a]
    assert main(["run.py", "--mode=train", "--sde=vp", "--config.data.name=toy",
                 "--config.model.name=mlp", f"--workdir={workdir}", *small]) == 0  # fmt: skip
    return workdir


@pytest.fixture
def images(tmp_path, monkeypatch):
    """In a folder of its own: digits as files, masks, and files that are wrong."""
    monkeypatch.chdir(tmp_path)
    levels = load_digits().test[5, 0]

    def save(name, pixels):
        Image.fromarray(np.asarray(pixels, np.uint8)).save(tmp_path / name)

    save("digit.png", to_uint8(levels, 17))
    save("coarse.png", np.full((4, 4), to_uint8(torch.tensor(12), 17)))
    save("wide.png", np.zeros((8, 9)))
    save("colour.png", np.zeros((8, 8, 3)))
    save("mask.png", np.pad(np.full((8, 3), 255), ((0, 0), (0, 5))))
    save("black.png", np.zeros((8, 8)))
    save("white.png", np.full((8, 8), 255))
    save("small-mask.png", np.eye(4) * 255)
    (tmp_path / "torn.png").write_bytes((tmp_path / "digit.png").read_bytes()[:40])
    return tmp_path


def ask(run, *more):
    keys = [m if m.startswith("--") else f"--config.{m}" for m in more]
    return ["run.py", "--mode=sample", f"--workdir={run}", "--device=cpu", *keys]


def refused(capfd, run, more, *expected):
    capfd.readouterr()
    before = sorted(p for p in run.rglob("*"))
    assert main(ask(run, *more)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("run.py: ")
    assert err.count("\n") == 1
    for text in expected:
        assert text in err
    assert sorted(p for p in run.rglob("*")) == before


# ---- files


@pytest.mark.parametrize("num_levels", [2, 3, 16, 17, 64, 200, 256])
def test_the_levels_of_a_picture_come_back(num_levels):
    levels = torch.arange(num_levels, dtype=torch.uint8)
    assert torch.equal(from_uint8(to_uint8(levels, num_levels), num_levels), levels)


def test_other_greys_go_to_the_nearest_level():
    pixels = torch.arange(256, dtype=torch.uint8)
    nearest = (pixels.double() * 16 / 255).round().to(torch.uint8)  # no grey is halfway
    assert torch.equal(from_uint8(pixels, 17), nearest)


def test_a_file_and_a_test_image_are_read_alike(images):
    data = load_digits()
    file, named, said = read_images("digit.png", data)
    assert said == ()
    assert torch.equal(file, data.test[5:6])
    assert named == ["digit.png"]
    of_test, names, _ = read_images("test:5", data, 3)
    assert torch.equal(of_test, data.test[5:8])
    assert names == ["test:5", "test:6", "test:7"]
    last = len(data.test) - 1
    assert len(read_images(f"test:{last}", data, 3)[0]) == 1


def test_a_mask_is_white_where_nothing_is_known(images):
    known, _ = read_mask("mask.png", (3, 8, 8))
    assert known.shape == (3, 8, 8)
    assert not known[:, :, :3].any()
    assert known[:, :, 3:].all()


# ---- tasks, end to end


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["inpaint", "superresolve"])
def test_a_measured_task(task, method, digits, images, capfd):
    more = [f"sampling.task={task}", f"control.method={method}", "control.count=3"]
    more += ["control.image=digit.png"] + ["control.mask=mask.png"] * (task == "inpaint")
    assert main(ask(digits, *more)) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    picture = picture_of(digits, task)
    assert out.rstrip().endswith(str(picture))
    result = json.loads((digits / "results" / f"{task}.json").read_text())
    assert result["num_images"] == 3
    assert len(result["misfits"]) == 3
    assert result["nfe"] == 3  # steps, whatever the method
    assert result["step"] == 4
    assert result["given"] == ["digit.png"]
    assert result["settings"]["method"] == method
    assert result["settings"]["precision"] == "float32"
    assert result["settings"]["compiled"] is False
    expected = {"replace": [0], "dps": [3], "mmps": range(6, 19)}
    assert result["jacobian_products"] in expected[method]
    assert (result["value"] < 1e-12) == (method == "replace")
    # a bin's standard deviation, over four pixels for a mean of four
    bins = 2 / 17 / 12**0.5
    assert result["noise"] == pytest.approx(bins if task == "inpaint" else bins / 2)
    page = (digits / "report.html").read_text()
    assert f"<h2>{task.capitalize()}: digit.png</h2>" in page
    with Image.open(picture) as shown:  # given, measured and three drawn
        assert shown.width > 4 * shown.height


def test_the_picture_shows_what_was_given_and_what_is_known(digits, images):
    more = ["sampling.task=inpaint", "control.image=digit.png", "control.mask=mask.png"]
    assert main(ask(digits, *more, "control.method=replace", "control.count=2")) == 0
    with Image.open(picture_of(digits, "inpaint")) as shown:
        pixels = np.asarray(shown)
    scale, gap = 48 // 8, 3
    tiles = [
        pixels[gap : gap + 48 : scale, left : left + 48 : scale]
        for left in range(gap, pixels.shape[1] - 1, 48 + gap)
    ]
    with Image.open("digit.png") as file:
        given = np.asarray(file)
    assert (tiles[0] == given).all()
    assert (tiles[1][:, 3:] == given[:, 3:]).all()
    assert (abs(tiles[1][:, :3].astype(int) - 128) <= 8).all()  # grey: not known
    for drawn in tiles[2:]:
        assert (drawn[:, 3:] == given[:, 3:]).all()
    assert (tiles[2] != tiles[3]).any()


def test_an_image_that_is_coarse_already(digits, images):
    more = ["sampling.task=superresolve", "control.image=coarse.png", "control.count=2"]
    assert main(ask(digits, *more)) == 0
    result = json.loads((digits / "results" / "superresolve.json").read_text())
    assert "to_given_value" not in result
    assert result["noise"] == pytest.approx(2 / 17 / 12**0.5)


def test_a_file_of_another_size_is_fitted_if_that_is_asked_for(digits, images, capfd):
    more = ["sampling.task=vary", "control.image=wide.png", "control.fit=crop", "control.count=1"]
    assert main(ask(digits, *more)) == 0
    said = "wide.png: all resized to 8x8 by crop"
    assert said in capfd.readouterr().out.splitlines()
    result = json.loads((digits / "results" / "vary.json").read_text())
    assert result["remarks"] == [said]
    assert result["settings"]["fit"] == "crop"


def test_reconstruct(digits, images):
    assert main(ask(digits, "sampling.task=reconstruct", "control.count=3")) == 0
    result = json.loads((digits / "results" / "reconstruct.json").read_text())
    assert [each["image"] for each in result["images"]] == ["test:0", "test:1", "test:2"]
    tolerances = [row["tolerance"] for row in result["tolerances"]]
    assert tolerances == pytest.approx([3.0, 0.3, 0.03])
    errors = [row["value"] for row in result["tolerances"]]
    assert errors[2] <= errors[1] <= errors[0]
    assert result["value"] == errors[2] < 0.1
    assert picture_of(digits, "reconstruct").exists()


def test_interpolate(digits, images):
    more = ["sampling.task=interpolate", "control.other=digit.png", "control.count=4"]
    assert main(ask(digits, *more, "sampling.tolerance=1e-5")) == 0
    result = json.loads((digits / "results" / "interpolate.json").read_text())
    assert result["given"] == ["test:0", "digit.png"]
    assert result["value"] < 1e-2
    assert len(result["strides"]) == 3
    assert (result["settings"]["precision"], result["settings"]["compiled"]) == ("float32", False)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_vary_by_every_sampler(sampler, digits, images):
    more = ["sampling.task=vary", "control.strength=0.3", "control.count=2"]
    assert main(ask(digits, *more, f"--sampler={sampler}")) == 0
    result = json.loads((digits / "results" / "vary.json").read_text())
    assert result["t_start"] == 300
    assert result["num_images"] == 2


def test_the_less_noise_the_nearer_to_the_image(digits, images):
    gaps = []
    for strength in (0.05, 0.4, 1.0):
        assert main(ask(digits, "sampling.task=vary", f"control.strength={strength}")) == 0
        gaps.append(json.loads((digits / "results" / "vary.json").read_text())["value"])
    assert gaps[0] < gaps[1] < gaps[2]


def test_the_same_seed_gives_the_same_images_in_any_batch(digits, images):
    pictures = []
    for batch in (1, 2, 8):
        more = ["sampling.task=inpaint", f"sampling.batch_size={batch}", "control.count=3"]
        assert main(ask(digits, *more)) == 0
        pictures.append(picture_of(digits, "inpaint").read_bytes())
    assert pictures[0] == pictures[1] == pictures[2]


COLOURED = (3, 4, 4)


def coloured():
    """Six random images in colour."""
    levels = torch.randint(0, 256, (6, *COLOURED), generator=torch.Generator().manual_seed(0))
    levels = levels.to(torch.uint8)
    return Data("colour", levels, levels, 256, None, None)


def task_of(data, **changes):
    flat = request.flatten(default.get_config().to_dict())
    flat |= {key.replace("__", "."): value for key, value in changes.items()}
    return build_control(resolve.resolve(flat, "it"), data)


def test_what_is_measured_of_images_in_colour(tmp_path):
    data = coloured()
    centres = 2 * (data.test[:1].double() + 0.5) / 256 - 1
    task = task_of(data, sampling__task="colorize")
    torch.testing.assert_close(task.measurement.value, centres.mean(1, keepdim=True))
    grey = tmp_path / "grey.png"
    Image.fromarray(data.test[0, 0].numpy()).save(grey)
    task = task_of(data, sampling__task="colorize", control__image=str(grey))
    assert len(task.given) == 0  # the file is the measurement, not what was measured
    torch.testing.assert_close(task.measurement.value, centres[:, :1])
    task = task_of(data, sampling__task="superresolve", control__factor=4)
    torch.testing.assert_close(task.measurement.value, centres.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("method", METHODS)
def test_colours_of_a_grey_image(method):
    """On an exact denoiser of Gaussian pixels whose channels go together."""
    n, sde, data = 16, VPSDE.log_linear(200, 1e-3, 5e-3), coloured()
    together = 0.02 * torch.eye(48) + 0.1 * torch.eye(16).repeat(3, 3)
    exact = gaussian(torch.zeros(48), together).denoiser(sde)
    task = task_of(data, sampling__task="colorize", control__method=method, control__noise=0.02)
    drawing = SamplingPlan(Ancestral("posterior"), grid("uniform", sde, 200), Clipped(exact))
    counted = Counted(exact)
    drawing, _ = task.conditioned(drawing, counted)
    x = sample(drawing.sampler, drawing.denoiser, sde, drawing.times, Noise.of(0, 0, n), COLOURED)
    assert counted.rows == 200 * n
    misfit = float(task.measurement.misfit(x).mean())
    if method == "replace":
        assert misfit < 1e-14
    if method == "mmps":  # what the noise leaves open, where the prior leaves 0.33
        assert abs(misfit / 0.02 - 1) < 0.2
        # given their mean, channels differ by what is theirs alone: 0.02
        own = (x - x.mean(1, keepdim=True)).square().sum(1) / 2
        assert abs(float(own.mean()) / 0.02 - 1) < 4 * (2 / (2 * 16 * n)) ** 0.5 + 0.1
    if method == "dps":
        assert misfit < 0.2


# ---- refusals


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["sampling.task=inpant"], ["sampling.task", "did you mean 'inpaint'?"]),
        (["sampling.task=inpaint", "control.method=dsp"], ["control.method", "'dps'?"]),
        (["sampling.task=colorize"], ["colorize needs data in colour", "1 channel"]),
        (["sampling.task=inpaint", "control.image=no.png"], ["no such image: 'no.png'"]),
        (["sampling.task=inpaint", "control.image=."], ["no such image: '.'"]),
        (["sampling.task=inpaint", "control.image=test:360"], ["test:K with K in 0..359"]),
        (["sampling.task=inpaint", "control.image=test:-1"], ["test:K with K in 0..359"]),
        (["sampling.task=vary", "control.image=test:"], ["test:K with K in 0..359"]),
        (["sampling.task=vary", "control.image=wide.png"], ["is 8x9 grey", "must be 8x8 grey"]),
        (["sampling.task=vary", "control.image=colour.png"], ["is 8x8 RGB", "8x8 grey"]),
        (["sampling.task=vary", "control.image=coarse.png"], ["is 4x4 grey", "8x8 grey"]),
        (
            ["sampling.task=superresolve", "control.image=wide.png"],
            ["is 8x9 grey", "8x8 grey or 4x4 grey"],
        ),
        (["sampling.task=vary", "control.image=torn.png"], ["torn.png: not a whole image"]),
        (["sampling.task=inpaint", "control.mask=no.png"], ["no such mask: 'no.png'"]),
        (
            ["sampling.task=inpaint", "control.mask=small-mask.png"],
            ["4x4 pixels", "8x8 are wanted", "control.fit"],
        ),
        (["sampling.task=inpaint", "control.mask=black.png"], ["all black", "nothing"]),
        (["sampling.task=inpaint", "control.mask=white.png"], ["all white", "nothing"]),
        (["sampling.task=superresolve", "control.factor=3"], ["must divide", "8x8", "3"]),
        (["sampling.task=superresolve", "control.factor=16"], ["must divide", "16"]),
        (["sampling.task=interpolate", "control.count=1"], ["count of 2 or more"]),
        (["sampling.task=interpolate", "control.other=no.png"], ["no such image"]),
        (["sampling.task=vary", "control.strength=0"], ["control.strength must lie in"]),
        (["sampling.task=vary", "control.mask=mask.png"], ["control.mask has no effect", "vary"]),
        (["control.count=3"], ["control.count has no effect on sampling.task = none"]),
        (["control.fit=crop"], ["control.fit has no effect on sampling.task = none"]),
        (["sampling.task=vary", "control.mode=gray"], ["control.mode", "did you mean 'grey'?"]),
        (["sampling.task=vary", "control.background=no"], ["control.background must be an opaq"]),
        (["sampling.task=inpaint", "control.weight=2.0"], ["no effect", "inpaint by mmps"]),
        (["sampling.task=reconstruct", "--sampler=ddim"], ["follows the probability flow"]),
        (
            ["sampling.task=inpaint", "control.method=replace", "--sampler=ode"],
            ["replace acts between the steps", "ode chooses its own"],
        ),
        (
            ["sampling.task=inpaint", "control.method=dps", "--sampler=unipc"],
            ["dps acts between the steps", "unipc corrects the state"],
        ),
        (
            [
                "sampling.task=inpaint",
                "control.method=replace",
                "--sampler=pc",
                "sampling.predictor=unipc",
            ],
            ["replace acts between the steps", "unipc corrects the state"],
        ),
        *(
            (
                ["sampling.task=inpaint", f"control.method={method}", f"sampling.final={final}"],
                [f"{method} acts in every step", "= mean", f"got {final}:", "or use mmps"],
            )
            for method in ("replace", "dps")
            for final in ("x_0", "none")
        ),
        *(
            (
                [f"sampling.task={task}", "sampling.progressive=true"],
                ["sampling.progressive has no effect", f"sampling.task = {task}"],
            )
            for task in TASKS
        ),
        (
            ["sampling.final=none", "sampling.steps=1", "--sampler=ddim"],
            ["sampling.final = none", "sampling.steps of 2 or more", "got 1"],
        ),
        (
            ["sampling.task=vary", "control.strength=0.01", "sampling.final=none"],
            ["sampling.final = none", "control.strength = 0.01, t = 10", "no other"],
        ),
    ],
)
def test_what_is_refused(more, expected, digits, images, capfd):
    refused(capfd, digits, more, *expected)


@pytest.mark.parametrize("final", ["x_0", "none"])
def test_the_other_finals_go_with_mmps_and_with_vary(final, digits, images):
    more = [f"sampling.final={final}", "control.count=1"]
    assert main(ask(digits, "sampling.task=inpaint", *more)) == 0
    assert main(ask(digits, "sampling.task=vary", "control.strength=0.9", *more)) == 0


@pytest.mark.parametrize("task", TASKS)
def test_vectors_are_refused(task, toy, images, capfd):
    refused(capfd, toy, [f"sampling.task={task}"], f"{task} is about images", "vectors")


def test_a_flow_out_of_evaluations_says_what_to_do(digits, images, capfd):
    more = ["sampling.task=reconstruct", "sampling.max_evaluations=8", "sampling.tolerance=1e-9"]
    assert main(ask(digits, *more)) == 1
    err = capfd.readouterr().err
    assert "raise sampling.max_evaluations or sampling.tolerance" in err


def test_a_damaged_result_is_named_with_a_remedy(digits, images):
    assert main(ask(digits, "sampling.task=vary", "control.count=1")) == 0
    path = digits / "results" / "vary.json"
    path.write_text("{")
    with pytest.raises(
        RequestError, match=r"vary\.json cannot be read .*: make it again, or remove the file"
    ):
        RunDir.open(digits).read_result("vary")
    path.unlink()


def test_a_single_image_has_no_spread_and_no_error(digits, images):
    assert main(ask(digits, "sampling.task=inpaint", "control.count=1")) == 0
    result = json.loads((digits / "results" / "inpaint.json").read_text())
    assert result["standard_error"] is None
    assert "spread" not in result
