"""From the command line on the rectified path and EDM's process: train, sample, edit, compare."""

import json

import pytest

from scoreflow.cli.main import main

TINY = [
    "--device=cpu",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=4",
    "--config.training.preview_every=2",
    "--config.model.channels=8",
    "--config.model.num_groups=4",
    "--config.sampling.num_images=2",
]
TASKS = [
    *(
        [f"--config.sampling.task={task}", f"--config.control.method={method}", *sampler]
        for task in ("inpaint", "superresolve")
        for method, sampler in (
            ("mmps", ["--sampler=heun", "--config.sampling.steps=4"]),
            ("mmps", ["--sampler=ode", "--config.sampling.tolerance=0.1"]),
            ("dps", ["--sampler=deis", "--config.sampling.steps=4"]),
            ("replace", ["--sampler=dpm", "--config.sampling.steps=4"]),
        )
    ),
    *(
        ["--config.sampling.task=vary", "--sampler=pc", f"--config.control.strength={share}"]
        for share in (0.5, 1.0)
    ),
    ["--config.sampling.task=reconstruct", "--config.sampling.tolerance=0.1"],
    ["--config.sampling.task=interpolate", "--config.sampling.tolerance=0.1"],
]
KINDS = ["rectified-u", "rectified-eps", "edm-v"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_run_of_digits_goes_all_the_way(kind, tmp_path, capfd):
    """Finite numbers in every result, and no command but the one asked to be refused fails."""
    process, prediction = kind.split("-")
    run = tmp_path / "run"
    as_theirs = kind == "rectified-u"  # as diffusers asks a network
    asked = ["--config.model.input_scale=none", "--config.model.label_offset=0"] * as_theirs

    def command(mode, *arguments, status=0):
        found = main(["run.py", f"--mode={mode}", f"--workdir={run}", "--device=cpu", *arguments])
        assert found == status, (arguments, capfd.readouterr())

    training = [f"--sde={process}", f"--config.model.prediction={prediction}", *asked, *TINY]
    command("train", *training)
    for sampler in ("ancestral", "dpm", "unipc"):
        few = ["--config.sampling.steps=5", "--config.sampling.shift=3"]
        command("sample", f"--sampler={sampler}", *few)
    command("sample", "--sampler=ode", "--config.sampling.tolerance=0.1")
    optimal = ["--config.sampling.variance=optimal", "--config.sampling.grid=least_cost"]
    command("sample", "--sampler=ancestral", "--config.sampling.steps=4", *optimal)
    command(
        "sample",
        "--sampler=ddim",
        "--config.sampling.steps=4",
        "--config.sampling.progressive=true",
    )
    for task in TASKS:
        command("sample", *task, "--config.control.count=3")
    command("compare", "--samplers=ddim,heun,pc,ode", "--config.compare.nfe=(6,)")
    out = f"--out={tmp_path / 'out'}"
    command("export", "--to=diffusers", out, status=0 if as_theirs else 2)
    command("export", "--to=safetensors", f"--out={tmp_path / 'out.safetensors'}")
    command("classifier", "--config.classifier.num_steps=2")
    guided = ["--config.sampling.label=3", "--config.sampling.guidance=2"]
    command("sample", "--sampler=heun", "--config.sampling.steps=4", *guided)
    results = list((run / "results").rglob("*.json"))
    assert len(results) > 8
    for path in results:
        text = path.read_text()
        json.loads(text, parse_constant=lambda word, path=path: pytest.fail(f"{word} in {path}"))
