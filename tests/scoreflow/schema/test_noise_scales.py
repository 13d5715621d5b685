"""--sde edm means EDM's noise scales, and no other process, file or run changes its own by it."""

import pytest

import scoreflow as sf
from scoreflow.cli import command_line
from scoreflow.schema import resolve
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten, overridden

EDM = (0.002, 80.0)
FLAT = flatten(Config().to_dict())


def scales(tmp_path, *flags):
    command = ["run.py", "--mode=train", f"--workdir={tmp_path / 'run'}", *flags]
    config = resolve.training_config(command_line.parse(command))
    return config.sde.sigma_min, config.sde.sigma_max


@pytest.mark.parametrize("config", [[], ["--config=toy"], ["--config=digits_flow"]])
@pytest.mark.parametrize("flag", ["--sde=edm", "--config.sde.name=edm"])
def test_the_flag_brings_edms(flag, config, tmp_path):
    assert scales(tmp_path, flag, *config) == EDM


def test_what_is_set_stays(tmp_path):
    assert scales(tmp_path, "--sde=edm", "--config.sde.sigma_max=20") == (0.002, 20)
    both = ["--config.sde.sigma_max=50", "--config.sde.sigma_min=0.001"]  # the keys' own defaults
    assert scales(tmp_path, "--sde=edm", *both) == (0.001, 50)


def test_other_processes_keep_theirs(tmp_path):
    assert scales(tmp_path, "--sde=ve") == (4e-4, 50)  # of digits.py
    assert scales(tmp_path, "--sde=ve", "--config=toy") == (5e-3, 50)
    assert scales(tmp_path) == (4e-4, 50)


def test_a_file_of_edms_process_says_its_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from scoreflow.configs import digits\n\n"
        "def get_config():\n    config = digits.get_config()\n"
        "    config.sde.name = 'edm'\n    config.sde.sigma_max = 30.0\n    return config\n"
    )
    assert scales(tmp_path, f"--config={file}") == (4e-4, 30)
    assert scales(tmp_path, f"--config={file}", "--sde=edm") == (4e-4, 30)
    assert scales(tmp_path, "--config=digits_edm") == EDM


def test_a_run_that_is_there_keeps_its_own_and_one_without_weights_is_begun_anew(tmp_path):
    command = ["run.py", "--mode=train", f"--workdir={tmp_path}", "--sde=edm"]
    request = command_line.parse(command)
    saved = {**FLAT, "sde.name": "edm", "sde.sigma_max": 20.0}
    config, changes = resolve.resumed_config(request, saved, tmp_path / "config.json")
    assert (config.sde.sigma_max, changes) == (20, {})
    config, _ = resolve.restarted_config(request, FLAT, tmp_path / "config.json")
    assert (config.sde.sigma_min, config.sde.sigma_max) == EDM
    config, _ = resolve.restarted_config(request, saved, tmp_path / "config.json")
    assert config.sde.sigma_max == 20


def test_python_means_the_same(tmp_path):
    short = {"training.num_steps": 1, "training.log_every": 1, "training.checkpoint_every": 1}
    asked = {**short, "training.batch_size": 8, "sde.name": "edm", "model.width": 8}
    list(sf.train("toy", tmp_path / "run", asked, device="cpu"))
    config = sf.load(tmp_path / "run").config.sde
    assert (config.sigma_min, config.sigma_max) == EDM
    assert overridden(FLAT, {"sde.name": "ve"}) == {**FLAT, "sde.name": "ve"}
