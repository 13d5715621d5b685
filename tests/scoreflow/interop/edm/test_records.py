"""EDM's pickles: the tensors of Python's own unpickler, and nothing of what a hostile one asks."""

import contextlib
import copy
import io
import os
import pickle
import random
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoreflow.errors import RequestError
from scoreflow.interop.edm.records import NAMES, Record, load_network

FIXTURES = Path(__file__).parents[3] / "fixtures" / "edm"
FILES = sorted(FIXTURES.glob("*/*.pkl"))
ran: list[object] = []
RUNNING = ("os.system", "subprocess.", "exec", "compile", "pickle.find_class", "socket.", "import")
watching = False
seen: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    if watching and event.startswith(RUNNING):
        seen.append(event)


sys.addaudithook(_watch)


def mark(*values: object) -> object:
    """What a hostile file calls; nothing of it may ever run."""
    ran.append(values)
    return values


class Reduced:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# ---- a writer of EDM's files: the names that torch and numpy write themselves ------------------


def _reconstruct_persistent_obj(meta: dict) -> object:
    return mark(meta)  # whoever resolves the name for real runs this


class Persistent:
    """Pickled as EDM's persistent classes are."""

    def __init__(self, class_name: str, state: dict, **meta) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": "mark()"}
        self.meta |= {"class_name": class_name, "state": state, **meta}

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@pytest.fixture(autouse=True)
def _their_module(monkeypatch):
    module = types.ModuleType("torch_utils.persistence")
    function = types.FunctionType(
        _reconstruct_persistent_obj.__code__, globals(), "_reconstruct_persistent_obj"
    )
    function.__module__ = "torch_utils.persistence"
    function.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = function
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)


@pytest.fixture(scope="module", autouse=True)
def _warm():
    load_network(FILES[0])  # torch's first load imports, which the audit would report


def load(value: object, folder: Path) -> object:
    """What is read of a stream, or of a value's pickle; fails if anything ran."""
    global watching
    stream = value if isinstance(value, bytes) else pickle.dumps(value, protocol=4)
    (folder / "a.pkl").write_bytes(stream)
    seen.clear()
    watching = True
    try:
        return load_network(folder / "a.pkl")
    finally:
        watching = False
        assert ran == []
        assert seen == []


def refused(value: object, folder: Path, pattern: str) -> None:
    with pytest.raises(RequestError, match=pattern) as caught:
        load(value, folder)
    assert str(caught.value).isprintable(), "one line"


# ---- what the files hold ------------------------------------------------------------------------


class _Trusting(pickle.Unpickler):
    """Python's own, with torch's and numpy's own functions; only of files made for this test."""

    def find_class(self, module, name):
        if module == "torch_utils.persistence":
            return lambda meta: types.SimpleNamespace(**meta["state"])
        if module == "torch.nn.modules.container":
            return types.SimpleNamespace
        return super().find_class(module, name)


def same(ours: object, theirs: object) -> int:
    """Compares all that is in them; how many tensors there were."""
    if isinstance(ours, Record):
        return same(ours.state, vars(theirs))
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        return sum(same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, Tensor):
        assert type(ours) is Tensor
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
        return 1
    assert type(ours) is type(theirs) or isinstance(theirs, np.floating)
    assert ours == theirs
    return 0


@pytest.mark.filterwarnings("ignore:dtype")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_the_same_as_pythons_own_unpickler(path):
    with path.open("rb") as stream:
        theirs = _Trusting(stream).load()
    assert same(load_network(path), theirs) >= 140


def test_no_name_stands_for_a_function_of_torch_numpy_or_python():
    # So no argument of a pickle, and no state, ever reaches one.
    for maker in NAMES.values():
        assert maker.__module__ == "scoreflow.interop.edm.records"


def test_modules_numbers_and_dicts_of_todays_torch_and_numpy(tmp_path):
    weight = nn.Parameter(torch.randn(3, 4).t())  # its strides are not those of a fresh tensor
    held = nn.ModuleDict()
    held.register_buffer("b", torch.arange(5.0)[2:])  # its numbers begin within the storage
    state = {
        "_parameters": OrderedDict(weight=weight, twice=weight),
        "scale": np.sqrt(0.5),
        "flag": np.bool_(True),
        "count": np.int64(-7),
        "half": np.float16(0.25),
        "big": np.array([1.5], ">f8")[0],
        "enc": held,
    }
    found = load({"ema": Persistent("Net", state)}, tmp_path)["ema"]
    assert type(found) is Record
    assert found.class_name == "Net"
    own = found.state
    assert torch.equal(own["_parameters"]["weight"], weight.detach())
    assert own["_parameters"]["twice"] is own["_parameters"]["weight"]
    assert (own["scale"], own["flag"], own["count"]) == (float(np.sqrt(0.5)), True, -7)
    assert (own["half"], own["big"]) == (0.25, 1.5)
    assert own["enc"].class_name == "ModuleDict"
    assert own["enc"].state["_buffers"]["b"].tolist() == [2, 3, 4]


def test_the_source_text_is_not_run(tmp_path):
    source = f"open({str(tmp_path / 'witness')!r}, 'w').close()"
    found = load({"ema": Persistent("Net", {}, module_src=source)}, tmp_path)
    assert found["ema"].state == {}
    assert not (tmp_path / "witness").exists()


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["top", "beside", "state", "parameters", "hooks", "kwargs"])
def test_code_anywhere_is_refused_by_name(tmp_path, place):
    witness = tmp_path / "witness"
    hostile = Reduced(os.system, f"touch {witness}")
    weight = nn.Parameter(torch.ones(2))
    state = {"_parameters": {"weight": weight}, "_init_kwargs": {}}
    value: object = {"ema": Persistent("Net", state), "loss_fn": None}
    if place == "top":
        value = hostile
    elif place == "beside":
        value["loss_fn"] = hostile
    elif place == "state":
        state["own"] = [hostile]
    elif place == "parameters":
        state["_parameters"]["x"] = Reduced(torch._utils._rebuild_parameter, hostile, True, {})
    elif place == "hooks":
        hooks = OrderedDict(a=hostile)
        state["x"] = Reduced(torch._utils._rebuild_parameter, weight.data, True, hooks)
    else:
        state["_init_kwargs"]["model_type"] = hostile
    refused(value, tmp_path, r"asks for (posix|nt)\.system, which .* nothing in the file was run")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (torch.float32, r"torch\.float32"),
        (torch.device("cpu"), r"torch\.device"),
        (torch.Size([1]), r"torch\.Size"),
        (np.arange(3), r"numpy\.?_?(core)?.*\._reconstruct"),
        (np.arange, r"numpy\.arange"),
        (Reduced(mark, 1), r"[\w.]+\.mark"),
        (
            Reduced(torch._utils._rebuild_sparse_tensor, 1),
            r"torch\._utils\._rebuild_sparse_tensor",
        ),
    ],
)
def test_names_outside_the_list_are_refused(tmp_path, value, name):
    refused({"ema": value}, tmp_path, rf"asks for {name}, which is neither")


@pytest.mark.parametrize(
    "meta",
    [
        {"type": "module"},
        {"version": 5},
        {"class_name": 3},
        {"class_name": ["Net"]},
        {"state": None},
        {"state": [("a", 1)]},
    ],
)
def test_other_persistent_objects_are_refused(tmp_path, meta):
    value = Persistent("Net", {})
    value.meta |= meta
    refused(value, tmp_path, "damaged one .a persistent object")


class Bytes:
    """Pickled as a storage of given bytes."""

    def __init__(self, content: object) -> None:
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def legacy(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def storage_of(tensor: Tensor) -> bytes:
    """As torch pickles one: old format, the storage alone."""
    stream = io.BytesIO()
    storage = torch.storage.TypedStorage(
        wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
    )
    torch.save(storage, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("function", [os.system, eval, mark, copy.copy])
def test_a_pickle_inside_a_storage_is_refused_by_name(tmp_path, function):
    witness = tmp_path / "witness"
    content = legacy({"x": Reduced(function, f"open({str(witness)!r}, 'w')")})
    name = function.__name__
    refused(Bytes(content), tmp_path, rf"asks for ([\w.]+\.)?{name}, which is neither")
    assert not witness.exists()


def test_storages_of_other_kinds_are_refused(tmp_path):
    zipped = io.BytesIO()
    torch.save(torch.ones(2), zipped)
    refused(Bytes(zipped.getvalue()), tmp_path, "format of before 1.6")  # compressible
    refused(Bytes(legacy(torch.ones(2))), tmp_path, "Tensor in place of a storage")
    refused(Bytes(legacy([1])), tmp_path, "list in place of a storage")
    refused(Bytes("text"), tmp_path, "format of before 1.6")
    refused(Bytes(pickle.dumps(Reduced(mark, 1))), tmp_path, "format of before 1.6")
    refused(Bytes(storage_of(torch.ones(9))[:-5]), tmp_path, "damaged one")


def test_a_storage_that_claims_more_than_it_brings(tmp_path):
    content = storage_of(torch.ones(100))
    claims = content.replace(b"Kd", b"J\xff\xff\xff\x00")  # 100 numbers become 2^24 - 1
    assert claims != content
    refused(Bytes(claims), tmp_path, "damaged one")


def test_the_same_bytes_cannot_be_loaded_again_and_again(tmp_path):
    content = storage_of(torch.ones(1000))
    load([Bytes(content)], tmp_path)
    refused([Bytes(content) for _ in range(3)], tmp_path, "more bytes than the file has")


def tensor_call(size, stride, offset=0, numbers=None):
    content = storage_of(torch.arange(6.0) if numbers is None else numbers)
    arguments = Bytes(content), offset, size, stride, False, OrderedDict()
    return Reduced(torch._utils._rebuild_tensor_v2, *arguments)


def test_a_tensor_is_a_view_of_its_storage(tmp_path):
    found = load(tensor_call((2, 2), (1, 2), 1), tmp_path)
    assert found.tolist() == [[1, 3], [2, 4]]
    assert load(tensor_call((), (), 5), tmp_path).tolist() == 5
    assert load(tensor_call((0, 3), (3, 1)), tmp_path).shape == (0, 3)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((10**9,), (0,), 0),  # one number, a thousand million times
        ((2**40, 2**40), (0, 0), 0),
        ((7,), (1,), 0),
        ((3,), (3,), 0),  # ends beyond the storage
        ((2,), (1,), 5),
        ((1,), (1,), 2**62),
        ((2,), (2**62,), 2),
        ((2,), (2**64,), 0),
        ((2,), (-1,), 3),
        ((-1,), (1,), 0),
        ((2,), (1,), -1),
        ((2,), (1, 1), 0),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        ([2], [1], 0),
        ("2", "1", 0),
    ],
)
def test_sizes_that_do_not_fit_a_storage_are_refused(tmp_path, size, stride, offset):
    refused(tensor_call(size, stride, offset), tmp_path, "no pickle of a network, or a damaged")


@pytest.mark.parametrize("data", [1, "a", None, [torch.ones(1)], {}])
def test_a_parameter_is_a_tensor(tmp_path, data):
    call = Reduced(torch._utils._rebuild_parameter, data, False, OrderedDict())
    refused(call, tmp_path, "a parameter that is no tensor")


def test_a_tensor_is_of_a_storage(tmp_path):
    for storage in (None, b"abc", torch.ones(2, 2), 3):
        call = Reduced(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
        refused(call, tmp_path, "a tensor without storage")


@pytest.mark.filterwarnings("ignore:dtype")
@pytest.mark.parametrize(
    "dtype", ["O", "U3", "S3", "V8", "M8[s]", [("a", "f8")], [("a", "O")], "c16"]
)
def test_dtypes_of_other_things_than_numbers_are_refused(tmp_path, dtype):
    refused(np.dtype(dtype), tmp_path, r"asks for numpy\.dtype of what is no plain number")


def test_a_scalar_is_a_plain_number(tmp_path):
    scalar, real = np.float64(1).__reduce__()[0], np.dtype("f8")
    for arguments in (("f8", b"8" * 8), (real,), (real, "text"), (real, [Reduced(min)][0:0])):
        refused(Reduced(scalar, *arguments), tmp_path, "scalar of what is no plain number")
    refused(Reduced(scalar, real, b"1234"), tmp_path, "damaged one")  # four bytes for eight
    refused(Reduced(scalar, np.dtype("O"), b""), tmp_path, r"asks for numpy\.dtype of what")


def test_a_record_is_not_called_and_takes_one_state(tmp_path):
    empty = b"ctorch.nn.modules.container\nModuleDict\n)\x81"
    refused(empty + b")R.", tmp_path, "a call of what is no listed name")
    state = b"}X\x01\x00\x00\x00aK\x01s"
    assert load(empty + state + b"b.", tmp_path).state == {"a": 1}
    refused(empty + state + b"b" + state + b"b.", tmp_path, "or its second")
    refused(empty + b"N" + state + b"\x86b.", tmp_path, "that is no dict")
    refused(b"ccollections\nOrderedDict\n)R" + state + b"b.", tmp_path, "instruction BUILD")


def test_a_state_does_not_reach_torch(tmp_path):
    before = torch._utils._rebuild_tensor_v2.__defaults__, vars(Record).copy()
    for name in NAMES:
        module, function = name.split(" ")
        state = b"N}X\x0c\x00\x00\x00__defaults__Ns\x86"
        stream = f"c{module}\n{function}\n".encode() + state + b"b."
        refused(stream, tmp_path, "the instruction BUILD on what takes no state")
    assert (torch._utils._rebuild_tensor_v2.__defaults__, vars(Record).copy()) == before


# ---- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES[:1], ids=lambda path: path.parent.name)
def test_truncated_files_are_one_line(tmp_path, path):
    whole = path.read_bytes()
    lengths = {0, 1, 2, 3, 11, *range(20, len(whole), len(whole) // 60), len(whole) - 1}
    for length in sorted(lengths):
        refused(whole[:length], tmp_path, "is no pickle of a network, or a damaged one")


def test_flipped_bytes_run_nothing(tmp_path):
    # Any answer will do, but one of ours, and without an event.
    whole = min((path.read_bytes() for path in FILES), key=len)
    draw = random.Random(0)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 3, 30))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        with contextlib.suppress(RequestError):
            load(bytes(content), tmp_path)
