"""Switches for speed and memory: a training goes as without them, up to a stated tolerance.

And what this machine lacks for one of them is said in a line.
"""

import shutil

import pytest
import torch
from ml_collections import ConfigDict

from scoreflow.configs import default
from scoreflow.errors import RequestError
from scoreflow.factory import training
from scoreflow.factory.assembly import experiment
from scoreflow.factory.training import build_training, compiled, remark
from scoreflow.runtime import environment
from scoreflow.schema import request, resolve
from scoreflow.sde.noise import kernels
from scoreflow.training.ema import EMA
from scoreflow.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = {
    "model.channels": 16,
    "model.num_groups": 4,
    "model.multipliers": (1, 2),
    "model.attention_sizes": (4,),
    "model.dropout": 0.3,
    "training.batch_size": 12,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 0,
    "training.channels_last": False,
    "training.ema_decay": 0.5,
}
STEPS = 4
EXACT = 1e-4  # relative, of losses and gradient norms: another order of sums
ROUGH = 0.02  # bfloat16 has 8 bits
COMPILER = pytest.mark.skipif(shutil.which("c++") is None, reason="compiling needs a C++ compiler")


def trained(**switches):
    """Losses and gradient norms of some steps, (STEPS, 2), and the averaged weights."""
    flat = request.flatten(default.get_config().to_dict()) | TINY
    changed = {f"training.{key}": value for key, value in switches.items()}
    config = ConfigDict(resolve.resolve(flat | changed, "test").to_dict())
    made = experiment(config, CPU)
    trainer = Trainer(
        made.model, made.network, EMA(made.network, 0.5), made.data, made.objective,
        made.settings, seed=3,
    )  # fmt: skip
    rows = trainer.advance(STEPS)
    return rows, torch.cat([p.flatten() for p in trainer.ema.module.parameters()])


@pytest.fixture(scope="module")
def plain():
    return trained()


@pytest.mark.parametrize(
    ("switches", "tolerance"),
    [
        ({"channels_last": True}, EXACT),
        ({"micro_batches": 5}, EXACT),
        ({"recompute": True}, EXACT),
        ({"precision": "tf32"}, 0.0),  # a CPU has none
        ({"precision": "bfloat16"}, ROUGH),
        ({"precision": "bfloat16", "channels_last": True, "recompute": True}, ROUGH),
        pytest.param({"compile": True}, EXACT, marks=[pytest.mark.slow, COMPILER]),
        pytest.param(
            {"compile": True, "compile_mode": "reduce-overhead", "micro_batches": 2},
            EXACT,
            marks=[pytest.mark.slow, COMPILER],
        ),
        pytest.param(
            {"compile": True, "channels_last": True, "precision": "bfloat16"},
            ROUGH,
            marks=[pytest.mark.slow, COMPILER],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_switch_changes_no_training(plain, switches, tolerance):
    rows, average = trained(**switches)
    torch.testing.assert_close(rows, plain[0], rtol=tolerance, atol=0)
    moved = 1e-3 * STEPS  # what Adam moves a weight by at most
    assert (average - plain[1]).abs().mean() <= tolerance * moved * 10


def test_the_plain_path_is_what_it_is_compared_with(plain):
    """Another batch moves them by more than any tolerance: the comparison can fail."""
    other = trained(batch_size=11)[0]
    assert ((other - plain[0]) / plain[0]).abs().max() > ROUGH


def settings(**changes):
    flat = request.flatten(default.get_config().to_dict())
    flat |= {f"training.{key}": value for key, value in changes.items()}
    return build_training(resolve.resolve(flat, "test"))


def test_a_mode_of_compiling_that_is_none_is_refused():
    with pytest.raises(RequestError, match=r"training\.compile_mode"):
        settings(compile_mode="fast")
    with pytest.raises(RequestError, match=r"needs training\.compile = true"):
        settings(compile=False, compile_mode="reduce-overhead")


def test_a_missing_compiler_is_a_line(monkeypatch):
    network = torch.nn.Linear(1, 1)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match=r"needs a C\+\+ compiler .* which was not found"):
        compiled(network, settings(compile=True))
    monkeypatch.setattr(kernels, "lacking", lambda: "the package triton")
    with pytest.raises(RequestError, match=r"on a GPU needs the package triton, .*compile=false$"):
        compiled(network.to("meta"), settings(compile=True))
    assert compiled(network, settings()) is network


@pytest.mark.parametrize(
    ("flags", "remarked"),
    [({"avx2"}, True), ({"avx2", "avx512f", "avx512_bf16"}, False), (set(), False)],
)
def test_a_cpu_that_emulates_bfloat16_is_remarked_on(monkeypatch, flags, remarked):
    monkeypatch.setattr(training, "cpu_flags", lambda: flags)
    line = remark(settings(precision="bfloat16"), CPU)
    assert (line is not None) == remarked
    assert remark(settings(), CPU) is None
    assert remark(settings(precision="bfloat16"), torch.device("cuda")) is None
    assert "is float32" in remark(settings(), CPU, asked="tf32")
    graphs = settings(compile=True, compile_mode="reduce-overhead")
    assert "on this CPU as default" in remark(graphs, CPU)
    assert "without effect" in remark(settings(compile_mode="reduce-overhead"), CPU)


def test_the_cpu_is_named_where_it_can_be_asked(monkeypatch):
    asked = {"model name": "Some CPU", "flags": "fpu avx2 avx512_bf16"}
    monkeypatch.setattr(environment, "_cpuinfo", lambda: asked)
    assert environment.environment("cpu")["device_name"] == "Some CPU avx2 avx512_bf16"
    monkeypatch.setattr(environment, "_cpuinfo", dict)
    assert environment.cpu_flags() == set()
    assert environment.environment("cpu")["device_name"]
