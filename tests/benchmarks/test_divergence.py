"""The divergence benchmark: that both products are the same, and what it makes of its numbers."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import divergence, rates
from benchmarks.likelihood.bench import Bench
from scoreflow.configs import cifar10
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.sde import VPSDE
from scoreflow.sde.flow import unit_probes, velocity_and_divergence

F64 = torch.float64
CPU = torch.device("cpu")


def tiny(channels_last=False):
    """A U-Net with attention, of random weights that reach the answer."""
    network = UNet(
        image_size=4, in_channels=2, out_channels=2, channels=8, multipliers=(1, 2), blocks=1,
        attention_sizes=(2,), num_groups=4,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for weights in network.parameters():
        weights.data.normal_(0, 0.15, generator=generator)
    network = network.eval().requires_grad_(False).to(F64)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    return ScoreModel(
        network, VPSDE.linear(1000), "v", precision="float64", channels_last=channels_last
    )


def points(count=3):
    generator = torch.Generator().manual_seed(1)
    x, probe = torch.randn(2, count, 2, 4, 4, generator=generator, dtype=F64)
    return x, probe.sign(), torch.linspace(0.3, 1.2, count, dtype=F64)


def test_vjp_and_jvp_are_the_same_product():
    model, (x, probe, angle) = tiny(), points()
    probes = [probe, -probe.flip(1)]
    v, products = velocity_and_divergence(model.sde, model, angle, x, probes)
    other_v, others = rates.by_jvp(model.sde, model, angle, x, probes)
    alone, none = divergence.alone(model.sde, model, angle, x, probes)
    assert products.shape == (3, 2)
    assert none.shape == (3, 0)
    assert float(products.abs().min()) > 1e-3
    torch.testing.assert_close(others, products, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other_v, v, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(alone, v, rtol=1e-10, atol=1e-10)


def test_either_is_the_trace_of_the_jacobian_by_unit_vectors():
    model, (x, _, angle) = tiny(), points(1)

    def field(flat):
        return divergence.velocity(model.sde, model, angle, flat.view_as(x)).flatten()

    exact = torch.autograd.functional.jacobian(field, x.flatten()).trace()
    for way in (velocity_and_divergence, rates.by_jvp):
        products = way(model.sde, model, angle, x, unit_probes(x))[1]
        torch.testing.assert_close(products.sum(), exact, rtol=1e-10, atol=1e-10)


def test_the_published_network_has_all_three_evaluations(monkeypatch):
    """In its own config, but small: with channels last there would be no tangent."""
    config = cifar10.get_config()
    config.model.update(channels=32, multipliers=(1, 2), attention_sizes=(16,), blocks=1)
    monkeypatch.setattr(cifar10, "get_config", lambda: config)
    for run in divergence.evaluations(torch.device("cpu"), 1).values():
        run(1)


@pytest.mark.parametrize("channels_last", [False, True])
def test_all_ways_find_the_same_likelihood(channels_last):
    levels = torch.randint(0, 17, (2, 2, 4, 4), generator=torch.Generator().manual_seed(2))
    bench = Bench({"as trained": tiny(channels_last)}, levels.to(torch.uint8), 17, 1.0, 7)
    ways = rates.ways(bench)
    assert list(ways) == ["vjp", *["vjp, not channels-last"] * channels_last, "jvp"]
    found = [rates.solved(way, bench.points(bench.test), 1e-3) for way in ways.values()]
    for bits, evaluations in found[1:]:
        torch.testing.assert_close(bits, found[0][0], rtol=0, atol=1e-9)
        assert evaluations == found[0][1]


def test_no_tolerance_is_chosen_by_luck():
    assert rates.loosest({1e-2: 5e-4, 1e-3: 2e-3, 1e-4: 5e-4, 1e-5: 1e-4}) == 1e-4
    assert rates.loosest({1e-2: 5e-4, 1e-3: 2e-4}) == 1e-2
    assert rates.loosest({1e-2: 5e-4, 1e-5: 1e-3}) is None
    assert rates.loosest({1e-5: float("nan")}) is None
    assert list(rates.timed_tolerances(None)) == [1e-4]
    assert list(rates.timed_tolerances(1e-4)) == [1e-4]
    assert list(rates.timed_tolerances(1e-3)) == [1e-4, 1e-3]


def test_rows_have_medians_of_ratios():
    times = {"forward": [1.0, 2.0, 4.0], "vjp": [3.0, 4.0, 8.0], "jvp": [3.0, 8.0, 4.0]}
    made = [divergence.row(name, times, 8) for name in times]
    assert [row["over_forward"] for row in made] == [1.0, 2.0, 3.0]  # jvp: of 3, 4 and 1
    assert [row["over_vjp"] for row in made] == [0.5, 1.0, 1.0]  # jvp: of 1, 2 and 1 / 2
    assert made[0]["images_per_second"] == 4.0
    lines = divergence.table([{**row, "memory_gb": 0.5} for row in made]).splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {7}


def test_rates_are_told_with_their_errors():
    times = {("vjp", 1e-4): [1.0, 2.0, 4.0], ("jvp", 1e-4): [2.0, 3.0, 16.0]}
    more = {"for": "default", "error": 2e-3, "evaluations": 149.4}
    made = [{**rates.row(case, times, 8), **more} for case in times]
    assert [row["over_vjp"] for row in made] == [1.0, 2.0]
    assert [row["images_per_second"] for row in made] == [4.0, pytest.approx(8 / 3)]
    text = rates.text({"rows": made, "errors": [[1e-3, 3e-3], [1e-4, 2e-3]]})
    assert text.endswith("3.0e-03 at 0.001, 2.0e-03 at 0.0001. None of them is below 0.001.")
    assert {line.count("|") for line in text.splitlines()[:4]} == {8}


@pytest.fixture
def costless(monkeypatch):
    """Without the large network, and without processes of its own."""
    times = {name: [1.0, 2.0] for name in divergence.FIELDS}
    row = {"memory_gb": 1.0, **divergence.row("vjp", times, 4)}
    monkeypatch.setattr(divergence, "measured", lambda *_: [row])


def test_without_a_run_it_says_which_command_trains_one(costless, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(divergence, "RUN", tmp_path / "none")
    divergence.main(["--device=cpu", f"--out={tmp_path}"])
    said = capsys.readouterr()
    assert "`make demo` trains" in said.err
    kept = json.loads((tmp_path / "divergence.json").read_text())
    assert kept["likelihood"] is None
    assert "`make demo` trains one" in (tmp_path / "divergence.md").read_text()
    assert divergence.table(kept["rows"]) in said.out


def test_a_run_is_measured_beside_it(costless, tmp_path, monkeypatch):
    levels = torch.randint(0, 17, (2, 2, 4, 4), generator=torch.Generator().manual_seed(2))
    bench = Bench({"as trained": tiny()}, levels.to(torch.uint8), 17, 1.0, 7)
    monkeypatch.setattr(divergence, "load_bench", lambda *_: bench)
    monkeypatch.setattr(rates, "TOLERANCES", (1e-2, 1e-3))
    monkeypatch.setattr(rates, "TRUTH", 1e-3)
    monkeypatch.setattr(rates, "timed_tolerances", lambda _: {1e-2: "default"})
    arguments = ["--device=cpu", "--rounds=2", "--images=2", "--workdir=a-run"]
    divergence.main([*arguments, f"--out={tmp_path}"])
    kept = json.loads((tmp_path / "divergence.json").read_text())
    assert "--workdir a-run --images 2" in kept["command"]
    assert [pair[0] for pair in kept["likelihood"]["errors"]] == [1e-2, 1e-3]
    assert {len(row["seconds_each"]) for row in kept["likelihood"]["rows"]} == {2}
    assert "2 test images of a-run (step 7)" in (tmp_path / "divergence.md").read_text()


@pytest.mark.parametrize(
    "bad", ["--rounds=1", "--batch=-1", "--images=0", "--device=mps", "--workdir=/nowhere"]
)
def test_bad_arguments_are_refused(bad, capsys):
    with pytest.raises(SystemExit) as stopped:
        divergence.main([bad])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_run_is_that_of_the_demonstration():
    assert Path("runs/digits-vp") == divergence.RUN
