"""Where kernels of our own run."""

import subprocess
import sys

import pytest
import torch

from scoreflow.sde.noise import kernels


@pytest.fixture
def with_cuda(monkeypatch):
    """A machine whose Triton can build, as far as the question goes."""
    monkeypatch.setattr(kernels, "lacking", lambda: None)
    monkeypatch.setattr(kernels, "is_new_enough", lambda index: index != 1)


@pytest.mark.usefixtures("with_cuda")
def test_kernels_run_eagerly_on_a_new_gpu_alone(monkeypatch):
    assert kernels.fused_on(torch.device("cuda"))
    assert kernels.fused_on(torch.device("cuda", 0))
    assert not kernels.fused_on(torch.device("cuda", 1))
    assert not kernels.fused_on(torch.device("cpu"))
    assert not kernels.fused_on(torch.device("mps"))
    monkeypatch.setattr(kernels, "lacking", lambda: "a C compiler (gcc or clang)")
    assert not kernels.fused_on(torch.device("cuda"))


@pytest.mark.usefixtures("with_cuda")
def test_no_kernels_where_the_compiler_looks_on(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not kernels.fused_on(torch.device("cuda"))


def test_a_compiled_function_asks_without_a_break():
    def asking(x):
        return x + kernels.fused_on(x.device)

    whole = torch.compile(asking, backend="eager", fullgraph=True)
    assert whole(torch.zeros(2)).tolist() == [0, 0]


def test_what_a_machine_lacks(monkeypatch, tmp_path):
    def lacking():
        return kernels.lacking.__wrapped__()

    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert lacking() == "the package triton"
    monkeypatch.setattr(kernels, "find_spec", lambda name: name)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    assert lacking() == "a C compiler (gcc or clang)"
    monkeypatch.setattr(kernels.shutil, "which", lambda name: name)
    monkeypatch.setattr(kernels.sysconfig, "get_path", lambda *_: str(tmp_path))
    assert lacking() == "the header Python.h"
    (tmp_path / "Python.h").touch()
    assert lacking() is None


def test_the_headers_are_those_that_triton_asks_for(monkeypatch):
    """It takes Debian's default folder, which is empty, for the one with the headers."""
    monkeypatch.setattr(kernels.sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(kernels.sysconfig, "get_path", lambda *asked: "/".join(asked))
    assert kernels._headers() == "include/posix_prefix"
    monkeypatch.setattr(kernels.sysconfig, "get_default_scheme", lambda: "venv")
    assert kernels._headers() == "include/venv"


@pytest.mark.parametrize(
    ("values", "on"),
    [(("", "1", "true", "ON", "Yes"), True), (("0", "false", "OFF", "no", "False"), False)],
)
def test_what_the_switch_may_be(values, on):
    assert [kernels.switched_on(value) for value in values] == [on] * len(values)
    with pytest.raises(ValueError, match=r"^SCOREFLOW_FUSED must be 1 .* or 0 .*, got 'maybe'"):
        kernels.switched_on("maybe")


def test_they_can_be_switched_off_and_a_cpu_does_without_triton():
    code = "import sys; from scoreflow.sde.noise import Noise, Stream, kernels; "
    code += "Noise.of(0, 0, 2).normal(Stream.PRIOR, (3,)); "
    code += "sys.exit('triton' in sys.modules or bool(kernels.FUSED))"
    subprocess.run([sys.executable, "-c", code], check=True, env={"SCOREFLOW_FUSED": "0"})
