"""Files of torch.save: what comes out is what went in, and nothing in them ever runs."""

import argparse
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from scoreflow.errors import RequestError
from scoreflow.interop import formats, torch_files
from scoreflow.interop.torch_files import load_tensors, read_once, tensors_alone

ran: list[str] = []


def mark(what: str) -> str:
    """What a hostile file would call; it must never be called."""
    ran.append(what)
    return what


class Hostile:
    """An object that calls a function of one argument when it is loaded."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def marker(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_comes_back_bit_for_bit(tmp_path, zipped):
    state = {
        "model": {"w": torch.randn(3, 4, dtype=torch.float64), "n": torch.arange(3)},
        "ema": {"shadow_params": [torch.randn(2), torch.nn.Parameter(torch.randn(2).half())]},
        "step": 7,
    }
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = load_tensors(tmp_path / "a.pth")
    assert found.keys() == state.keys()
    assert found["step"] == 7
    for name, tensor in state["model"].items():
        assert found["model"][name].dtype == tensor.dtype
        assert torch.equal(found["model"][name], tensor)
    for one, other in zip(
        found["ema"]["shadow_params"], state["ema"]["shadow_params"], strict=True
    ):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(mark, f"{__name__}.mark"), (eval, "eval"), (exec, "exec"), (__import__, "__import__")],
)
def test_code_is_refused_by_name_and_does_not_run(tmp_path, zipped, function, name):
    path, witness = tmp_path / "a.pt", tmp_path / "witness"
    state = {"w": torch.ones(2), "x": Hostile(function, marker(witness))}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RequestError, match=rf"asks for {name}, .* nothing in the file was") as e:
        load_tensors(path)
    assert "\n" not in str(e.value)
    assert ran == []
    assert not witness.exists()


def test_a_shell_command_does_not_run(tmp_path):
    import os

    witness = tmp_path / "witness"
    torch.save({"x": Hostile(os.system, f"touch {witness}")}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=r"asks for \w+\.system, "):
        load_tensors(tmp_path / "a.pt")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_objects_are_refused_by_name(tmp_path, value, name):
    torch.save({"args": value}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=rf"asks for {name}, .* save the state_dict\(\)"):
        load_tensors(tmp_path / "a.pt")


def test_a_program_of_torchscript_is_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(RequestError, match="TorchScript program"):
        load_tensors(tmp_path / "a.pt")


def test_a_name_cannot_write_on_the_terminal(tmp_path):
    # The name in a stream is any text: here one that clears the screen, and a very long one.
    zeroth = b"\x80\x02}X\x01\x00\x00\x00xc"
    for name in (b"\x1b[2J", b"a" * 5000):
        stream = zeroth + name + b"\nf\n)Rs."
        torch.save({}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        plain = (tmp_path / "a.pt").read_bytes()
        assert plain.count(pickle_of({})) == 1
        (tmp_path / "a.pt").write_bytes(plain.replace(pickle_of({}), stream))
        with pytest.raises(RequestError, match="asks for") as e:
            load_tensors(tmp_path / "a.pt")
        assert str(e.value).isprintable()
        assert len(str(e.value)) < 500 + len(str(tmp_path))


def pickle_of(value) -> bytes:
    return pickle.dumps(value, protocol=2)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0, 1, 20, 0.3, 0.6, -1])
def test_a_truncated_file_is_one_line(tmp_path, zipped, keep):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(200)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else keep])
    with pytest.raises(RequestError, match=r"a\.pt is no file of torch\.save, or a dam") as e:
        load_tensors(path)
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"some text\n", "download it again"),
        (bytes(range(256)) * 9, "download it again"),
        (pickle.dumps({"a": 1}), "download it again"),
    ],
)
def test_other_files_say_what_they_are(tmp_path, content, told):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(RequestError, match=told) as e:
        load_tensors(tmp_path / "a.pt")
    assert str(e.value).isprintable()
    assert "weights_only" not in str(e.value)


def test_a_list_a_folder_and_a_missing_file(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(RequestError, match="holds one list"):
        load_tensors(tmp_path / "list.pt")
    with pytest.raises(RequestError, match=r"cannot be read \(Is a directory\)"):
        load_tensors(tmp_path)
    with pytest.raises(RequestError, match=r"cannot be read \(No such file"):
        load_tensors(tmp_path / "none.pt")


def test_a_file_is_read_once_to_be_recognised_and_imported(golden, tmp_path, monkeypatch):
    readings = []

    def counted(stream):
        readings.append(stream.name)
        return tensors_alone(stream)

    monkeypatch.setattr(torch_files, "tensors_alone", counted)
    found = golden("adm_new_order")
    path = shutil.copy(found.path, tmp_path / "model.pt")
    for expected in (1, 2):  # and nothing is kept for the next import
        formats.read(path, "", "", found.options)
        assert len(readings) == expected
    with read_once():
        load_tensors(path)
        torch.save({"a": torch.ones(3)}, path)
        assert set(load_tensors(path)) == {"a"}  # changed meanwhile
