"""EDM's snapshots: what is recognised, what the settings say, and which networks are refused."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scoreflow.errors import RequestError
from scoreflow.interop.edm import reader
from scoreflow.interop.edm.records import Record, load_network
from scoreflow.interop.edm.weights import qkv_major
from scoreflow.interop.imported import Imported
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.sde import VPSDE

FIXTURES = Path(__file__).parents[3] / "fixtures" / "edm"
NAMES = sorted(path.name for path in FIXTURES.iterdir())
ADM, DDPMPP = "edm_adm_cond", "edm_ddpmpp_cond"


def file_of(name: str) -> Path:
    return next((FIXTURES / name).glob("*.pkl"))


def modules(record: Record, name: str = "") -> dict[str, Record]:
    """Every record by its dotted name."""
    found = {name: record}
    for own, child in record.state["_modules"].items():
        found |= modules(child, f"{name}.{own}".removeprefix("."))
    return found


@pytest.fixture
def edited(monkeypatch):
    """The reader's answer to a fixture of which one thing is changed."""

    def read(name: str, change: Callable[[dict[str, Record]], object]) -> Imported:
        held = load_network(file_of(name))
        change(modules(held["ema"]))
        monkeypatch.setattr(reader, "load_network", lambda path: held)
        return reader.read(file_of(name), {})

    return read


def told(record: Record) -> dict:
    return record.state["_init_kwargs"]


# ---- what it says -------------------------------------------------------------------------------


def test_a_pickle_is_recognised_by_its_ending(tmp_path):
    for name in NAMES:
        assert reader.recognises(file_of(name))
    (tmp_path / "a.pt").write_bytes(b"")
    assert not reader.recognises(tmp_path / "a.pt")
    assert not reader.recognises(tmp_path)
    assert not reader.recognises(tmp_path / "none.pkl")


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_keys_of_the_config(name):
    found = reader.read(file_of(name), {})
    known = flatten(Config().to_dict())
    for key, value in found.settings.items():
        assert key in known
        assert type(value) is type(known[key]) or isinstance(known[key], list), key
    assert found.format == "edm"
    assert found.raw is None
    assert {each.dtype for each in found.weights.values()} == {torch.float32}
    assert all(text.isprintable() for text in found.facts.values())


def test_the_file_s_sizes_are_ours():
    adm, song = (reader.read(file_of(name), {}).settings for name in (ADM, DDPMPP))
    ve, vp = (reader.read(file_of(name), {}).settings for name in ("ve_ncsnpp", "vp_ddpmpp"))
    assert (adm["model.heads"], adm["model.attention_up"]) == (4, "each")
    assert (adm["model.num_classes"], adm["model.class_embedding"]) == (5, "after")
    assert (song["model.num_classes"], song["model.class_embedding"]) == (4, "before")
    assert (song["model.dropout"], adm["model.scale_shift"]) == (0.13, True)
    assert (ve["sde.sigma_min"], ve["sde.sigma_max"]) == (0.02, 100.0)
    assert (vp["sde.beta_min"], vp["sde.beta_max"], vp["training.t_min"]) == (0.1, 20.0, 0.01)
    assert vp["model.shape"] == (1, 8, 8)


def test_options_are_refused():
    with pytest.raises(RequestError, match="has no option 'heads'"):
        reader.read(file_of(ADM), {"heads": 4})


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "width"), [(1, 4), (3, 2), (2, 5)])
def test_rows_of_qkv_go_where_ours_are(heads, width):
    rows = torch.arange(3 * heads * width)
    found = qkv_major(rows, heads)
    for which in range(3):
        for head in range(heads):
            for channel in range(width):
                ours = (which * heads + head) * width + channel
                assert found[ours] == rows[(head * width + channel) * 3 + which]


def test_no_tensor_is_lost():
    for name in NAMES:
        held = modules(load_network(file_of(name))["ema"])
        there = sum(
            sum(tensor is not None for tensor in record.state["_parameters"].values())
            for path, record in held.items()
            if not path.startswith("model.map_augment")
        )
        there += sum("freqs" in record.state["_buffers"] for record in held.values())
        label = held.get("model.map_label")
        there -= label is not None and label.state["_parameters"].get("bias") is not None
        assert len(reader.read(file_of(name), {}).weights) == there


# ---- the fourth wrapper, for which there is no file ---------------------------------------------


def as_iddpm(held: dict[str, Record]) -> None:
    held[""].class_name = "iDDPMPrecond"
    held[""].state |= {"M": 1000, "C_1": 0.001, "C_2": 0.008}
    network = held["model"]
    told(network)["out_channels"] = 6
    head = held["model.out_conv"].state["_parameters"]
    head |= {kind: torch.cat((head[kind], head[kind])) for kind in ("weight", "bias")}


def test_iddpm_has_a_learned_variance_and_integer_times(edited):
    found = edited(ADM, as_iddpm)
    assert found.settings["model.learned_variance"] is True
    assert found.settings["model.integer_times"] is True
    assert found.weights["head.2.weight"].shape[0] == 6
    plain = reader.load_network(file_of(ADM))["ema"]
    unchanged = modules(plain)["model.out_conv"].state["_parameters"]["weight"]
    assert torch.equal(found.weights["head.2.weight"], unchanged)  # eps itself: not negated


def test_iddpm_s_noise_scales_are_our_cosine_schedule():
    # u_M = 0, u_(j-1)^2 + 1 = (u_j^2 + 1) / max(alpha(j-1) / alpha(j), C_1) with
    # alpha(j) = sin^2(pi / 2 j / (M (C_2 + 1))) (Karras et al. 2022, Table 1), and step t is M - j
    steps = 1000
    alpha = np.sin(0.5 * np.pi * np.arange(steps + 1) / steps / 1.008) ** 2
    u = np.zeros(steps + 1)
    for j in range(steps, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(alpha[j - 1] / alpha[j], 0.001) - 1)
    sde = VPSDE.cosine(steps)
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    ours = sde.sigma(t) / sde.alpha(t)
    torch.testing.assert_close(
        ours, torch.from_numpy(u[steps - 1 :: -1].copy()), rtol=1e-9, atol=0
    )


# ---- what is refused ----------------------------------------------------------------------------


def set_state(path: str, **values):
    def change(held: dict[str, Record]) -> None:
        held[path].state |= values

    return change


def set_argument(**values):
    def change(held: dict[str, Record]) -> None:
        told(held["model"]).update(values)

    return change


def drop(path: str):
    def change(held: dict[str, Record]) -> None:
        above, _, own = path.rpartition(".")
        del held[above].state["_modules"][own]

    return change


def rename(path: str, class_name: str):
    def change(held: dict[str, Record]) -> None:
        held[path].class_name = class_name

    return change


def hang_in_itself(held: dict[str, Record]) -> None:
    held["model.enc"].state["_modules"]["x"] = held["model"]


def hang_twice(held: dict[str, Record]) -> None:
    held["model.enc"].state["_modules"]["x"] = held["model.dec.4x4_in0"]


def add_tensor(held: dict[str, Record]) -> None:
    held["model.map_layer0"].state["_parameters"]["extra"] = torch.ones(1)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ADM, rename("", "Precond"), "its wrapper is a Precond: only VPPrecond, VEPrecond"),
        (ADM, rename("", "\x1b[2J"), r"its wrapper is a \\x1b\[2J"),
        (ADM, rename("model", "UNet"), "its network is a UNet: only SongUNet and DhariwalUNet"),
        (ADM, drop("model"), "holds no network"),
        (ADM, drop("model.dec.8x8_up"), "no UNetBlock dec.8x8_up"),
        (ADM, drop("model.map_noise"), "no PositionalEmbedding map_noise"),
        (ADM, set_argument(channel_mult_emb=2), "4 times its channels"),
        (ADM, set_argument(channel_mult=[]), "do not divide its 8 pixels"),
        (ADM, set_argument(channel_mult=[1, 2, 2, 2, 2]), "do not divide its 8 pixels"),
        (ADM, set_argument(channel_mult=[1, 1.5]), "argument channel_mult is no count"),
        (ADM, set_argument(channel_mult="12"), "argument channel_mult is no list"),
        (ADM, set_argument(model_channels=-8), "argument model_channels is no count"),
        (ADM, set_argument(num_blocks=2), "no UNetBlock enc.8x8_block1"),
        (ADM, set_argument(num_blocks=2**40), "argument num_blocks is no count"),
        (ADM, set_argument(num_blocks=2**30), "1073741824 blocks a level"),
        (ADM, set_argument(channel_mult=[1] * 10**6), "do not divide its 8 pixels"),
        (ADM, set_argument(img_resolution=12), "no UNetBlock "),
        (ADM, set_argument(dropout=None), r"argument dropout is no number in \[0, 1\)"),
        (ADM, set_argument(out_channels=4), "4 channels of an answer to 3"),
        (ADM, set_state("model", _init_args=(8,)), "not constructed by named arguments"),
        (ADM, set_state("model", _init_kwargs=None), "no _init_kwargs"),
        (ADM, set_state("model.dec.4x4_in0", _parameters=[1]), "no _parameters"),
        (ADM, set_state("", sigma_data=None), "no float sigma_data"),
        (ADM, set_state("", sigma_data="half"), "no float sigma_data"),
        (ADM, set_state("model.map_noise", max_positions=500), "another frequency"),
        (ADM, set_state("model.enc.8x8_block0.norm1", eps=1e-3), "different eps"),
        (ADM, set_state("model.enc.8x8_block0.norm1", num_groups=4), "other groups"),
        (ADM, set_state("model.enc.8x8_block0", skip_scale=0.5), "skip_scale"),
        (
            ADM,
            set_state("model.enc.8x8_block0", num_heads=2),
            "attention in dec.8x8_block0 and not",
        ),
        (ADM, set_state("model.dec.4x4_block0", num_heads=2), "different numbers of heads"),
        (ADM, set_state("model.dec.4x4_block0", num_heads=5), "heads"),
        (ADM, add_tensor, "map_layer0.extra has no place"),
        (ADM, hang_in_itself, "lies in more than one place"),
        (ADM, hang_twice, "lies in more than one place"),
        (DDPMPP, set_argument(encoder_type="skip"), "encoder_type = skip cannot be had"),
        (DDPMPP, set_argument(decoder_type="skip"), "decoder_type = skip cannot be had"),
        (DDPMPP, set_argument(embedding_type=["fourier"]), "embedding_type = list cannot be had"),
        (DDPMPP, set_argument(channel_mult_noise=2), "positional embeddings of 2 times"),
        ("ve_ncsnpp", set_argument(channel_mult_noise=1), "fourier embeddings of 1 times"),
        (DDPMPP, set_argument(resample_filter=[1, 2, 1]), r"filter \[1, 2, 1\] cannot be had"),
        ("vp_ddpmpp", set_state("", M=2.5), "no int M"),
        ("vp_ddpmpp", set_state("", M=0), "M is 0"),
    ],
)
def test_other_networks_are_refused_in_one_line(edited, name, change, message):
    with pytest.raises(RequestError, match=message) as caught:
        edited(name, change)
    assert str(caught.value).isprintable()
    assert str(file_of(name)) in str(caught.value)


@pytest.mark.parametrize("held", [None, [], {}, {"ema": None}, {"ema": {"state": 1}}])
def test_a_pickle_without_a_network_is_refused(monkeypatch, held):
    monkeypatch.setattr(reader, "load_network", lambda path: held)
    with pytest.raises(RequestError, match="no network under 'ema'"):
        reader.read(file_of(ADM), {})
