"""Tables of numbers: every kind of file gives the same rows, and what is refused."""

import numpy as np
import pytest
import torch

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.data.vectors import load_vectors
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.data import build_data
from scoreflow.factory.likelihood import build_question
from scoreflow.generation.pictures import reach_of
from scoreflow.likelihood.dataset_likelihood import measure
from scoreflow.schema import request, resolve
from scoreflow.schema.experiments import load_experiment
from scoreflow.sde.analytic import gaussian

TABLE = np.random.default_rng(0).normal([0.5, -1.0, 0.0], [1.0, 0.5, 2.0], size=(20, 3))
FLAT = request.flatten(load_experiment("vectors")[1].to_dict())


def write(folder, kind, values=TABLE, names=("a", "b, c", "d")):
    path = folder / f"table.{kind.split('-')[0]}"
    rows = values.tolist() if values.ndim == 2 else []
    text = [",".join(map(repr, row)) for row in rows]
    match kind:
        case "npy":
            np.save(path, values)
        case "npz":
            np.savez(path, only=values)
        case "npz-several":
            np.savez(path, other=np.zeros(3), x=values)
        case "csv":
            path.write_text("\n".join(text))
        case "csv-header":
            head = ",".join(f'"{name}"' for name in names)
            path.write_text("\n".join([head, *text]), encoding="utf-8-sig")
        case "csv-semicolons":
            path.write_text("\n".join(line.replace(",", ";") for line in text))
        case "tsv":
            path.write_text("\n".join(line.replace(",", "\t") for line in text))
        case "parquet":
            arrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(arrow.table(dict(zip(names, values.T, strict=True))), path)
    return path


@pytest.mark.parametrize(
    "kind",
    ["npy", "npz", "npz-several", "csv", "csv-header", "csv-semicolons", "tsv", "parquet"],
)
def test_every_kind_of_file_is_the_same_table(kind, tmp_path):
    data = load_vectors(str(write(tmp_path, kind)), 0.25, 4)
    order = np.random.default_rng(4).permutation(20)
    assert torch.equal(data.test, torch.from_numpy(TABLE[order[:5]].astype(np.float32)))
    assert torch.equal(data.train, torch.from_numpy(TABLE[order[5:]].astype(np.float32)))
    assert (data.num_levels, data.train_labels) == (None, None)
    assert data.name == f"table.{kind.split('-')[0]}"
    said = {
        "npz-several": [f"{tmp_path / 'table.npz'}: its arrays other are not read"],
        "csv-header": ["columns: a, b, c, d"],
        "parquet": ["columns: a, b, c, d"],
    }
    first_two = "vectors of 3 numbers: pictures show the first two alone"
    assert data.remarks == (*said.get(kind, ()), first_two)


@pytest.mark.parametrize("head", [",x,y", '"",x,y', "Unnamed: 0,x,y", ",0,1"])
def test_pandas_index_is_left_out_and_said(head, tmp_path):
    rows = "\n".join(f"{k},{x!r},{y!r}" for k, (x, y) in enumerate(TABLE[:, :2].tolist()))
    (tmp_path / "t.csv").write_text(f"{head}\n{rows}\n")
    data = load_vectors(str(tmp_path / "t.csv"), 0)
    assert torch.equal(data.train, torch.from_numpy(TABLE[:, :2].astype(np.float32)))
    names, index = head.split(",")[1:], head.split(",")[0].strip('"')
    out = f"pandas' index (the column {index!r}) is left out"
    assert data.remarks[0] == f"columns: {', '.join(names)}; {out}"


def test_data_labels_is_refused_for_vectors():
    with pytest.raises(RequestError, match=r"data\.labels has no effect on data\.name = vectors"):
        resolve.refuse_idle({"data.labels": "label"}, {**FLAT, "data.labels": "label"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1,,3\n4,5,6\n7,8,10\n", "got '' in row 0, column 1, beside numbers"),
        ("1,n/a,3\n4,5,6\n7,8,10\n", "got 'n/a' in row 0, column 1, beside numbers"),
        ("", "needs rows of numbers, got a first line without"),
        (",,\n1,2,3\n", "needs rows of numbers, got a first line without"),
        ("a,b\n\n", "got no row but its column names, a, b"),
    ],
)
def test_a_first_line_is_names_only_where_none_of_it_is_a_number(text, why, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RequestError, match=why):
        load_vectors(str(tmp_path / "t.csv"))


def test_names_may_be_blank_and_blank_lines_come_first(tmp_path):
    (tmp_path / "t.csv").write_text("\na,\n1,0.5\n2,1.5\n3,-1\n")
    data = load_vectors(str(tmp_path / "t.csv"), 0)
    assert data.train.tolist() == [[1, 0.5], [2, 1.5], [3, -1]]


def test_a_folder_of_parquet_files_is_one_table(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for k, rows in enumerate((TABLE[:8], TABLE[8:])):
        columns = {"x": rows[:, 0], "n": np.arange(len(rows)), "y": rows[:, 0] > 0.5}
        parquet.write_table(arrow.table(columns), tmp_path / f"part-{k}.parquet")
    data = load_vectors(str(tmp_path))
    whole = np.column_stack([TABLE[:, 0], [*range(8), *range(12)], TABLE[:, 0] > 0.5])
    found = torch.cat([data.test, data.train])
    order = np.random.default_rng(0).permutation(20)
    assert torch.equal(found, torch.from_numpy(whole[order].astype(np.float32)))


def refused_tables(folder):
    holed = TABLE.copy()
    holed[3, 1] = np.nan
    flat = TABLE.copy()
    flat[:, 2] = 7
    wide = TABLE * [1, 1, 1e5]
    text = folder / "words.csv"
    text.write_text("a,b\n1,2\n3,red\n")
    return {
        r"finite float32 number, got nan in row 3, column 'b, c'": ("csv-header", holed),
        r"finite float32 number, got nan in row 3, column 1": ("npy", holed),
        r"constant columns have no density, got 'd'; remove": ("csv-header", flat),
        r"of about unit scale, .* \('d'\); standardise the columns": ("csv-header", wide),
        r"must be \(rows, columns\), got \(20,\)": ("npy", TABLE[:, 0]),
        r"needs 2 rows or more, got 1": ("npy", TABLE[:1]),
        r"must hold real numbers, got complex": ("npy", TABLE * 1j),
        r"not a table of numbers \(.*red": (str(text), None),
    }


@pytest.mark.parametrize("number", range(8))
def test_what_is_no_table_is_refused_in_one_line(number, tmp_path):
    reason, (kind, values) = list(refused_tables(tmp_path).items())[number]
    path = kind if values is None else write(tmp_path, kind, values)
    with pytest.raises(RequestError, match=reason) as refusal:
        load_vectors(str(path))
    assert "\n" not in str(refusal.value)


def test_other_files_columns_and_objects_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"must name a file that ends in \.npy, \.npz, \.csv"):
        load_vectors(str(tmp_path))
    np.savez(tmp_path / "two.npz", a=TABLE, b=TABLE)
    with pytest.raises(RequestError, match="one must be called data, x, X, arr_0, got a, b"):
        load_vectors(str(tmp_path / "two.npz"))
    np.save(tmp_path / "code.npy", np.array([[print]]), allow_pickle=True)
    with pytest.raises(RequestError, match=r"not a table of numbers \(Object arrays"):
        load_vectors(str(tmp_path / "code.npy"))
    (tmp_path / "cut.npz").write_bytes(b"PK")
    with pytest.raises(RequestError, match="not a table of numbers"):
        load_vectors(str(tmp_path / "cut.npz"))
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"x": [1.0, None, 3.0], "name": ["a", "b", "c"]}
    for names, reason in (
        (["x"], "1 values of column 'x' are missing"),
        (["name"], "every column must hold numbers, got string in 'name'"),
    ):
        path = tmp_path / "bad.parquet"
        parquet.write_table(arrow.table({name: columns[name] for name in names}), path)
        with pytest.raises(RequestError, match=reason):
            load_vectors(str(path))


def test_scales_that_networks_do_not_expect_are_said(tmp_path):
    data = load_vectors(str(write(tmp_path, "npy", TABLE * [1, 10, 1])))
    assert "where networks expect about 1 and 0: standardise the columns" in data.remarks[0]


def test_a_picture_reaches_as_far_as_the_points(tmp_path):
    data = load_vectors(str(write(tmp_path, "npy", TABLE[:, :2] * 3)), 0.5)
    most = data.test.abs().double().quantile(0.999)
    assert reach_of(data) == pytest.approx(1.1 * float(most))
    narrow = load_vectors(str(write(tmp_path, "npy", TABLE[:, :2] / 4)), 0.5)
    assert reach_of(narrow) == 1.5


class Exact(torch.nn.Module):
    """The exact v of a Gaussian in the plane, as a network of (x, index)."""

    def __init__(self, sde, law):
        super().__init__()
        self.denoiser = law.denoiser(sde)

    def forward(self, x, index):
        return self.denoiser(x.double(), index.double() + 1).v.to(x.dtype)


def test_the_likelihood_of_a_table_is_its_density_in_nats(tmp_path):
    """Of the true network of a Gaussian, by the settings of configs/vectors.py."""
    cov = torch.tensor([[1.0, 0.6], [0.6, 1.5]], dtype=torch.float64)
    law = gaussian(torch.tensor([0.3, -0.2], dtype=torch.float64), cov)
    rows = law.sample(sf.Noise.of(0, 0, 64))
    np.savetxt(tmp_path / "plane.csv", rows.numpy(), delimiter=",")
    flat = {**FLAT, "data.path": str(tmp_path / "plane.csv"), "sde.sigma_min": 1e-3}
    config = resolve.resolve(flat, "test")
    data, sde = build_data(config, torch.device("cpu")), build_sde(config)
    model = sf.ScoreModel(Exact(sde, law), sde, "v", precision="float64")
    measured = measure(model, data, 0, build_question(config, model, data))
    assert measured.result["unit"] == "nats"
    one, zero = (torch.tensor(value, dtype=torch.float64) for value in (1.0, 0.0))
    exact = -law.log_prob(data.test.double(), one, zero)
    assert float((measured.values.mean(1) - exact).abs().max()) < 0.02


def test_from_the_command_line(tmp_path, capsys):
    path = write(tmp_path, "csv-header")
    argv = ["run.py", "--mode=train", f"--workdir={tmp_path / 'run'}", "--device=cpu"]
    tiny = ["training.num_steps=2", "training.log_every=1", "training.checkpoint_every=2"]
    tiny += ["sampling.num_images=4", "sampling.steps=2", "sampling.batch_size=4", "model.width=8"]
    tiny += ["sampling.tolerance=0.1", "likelihood.nodes=8", "likelihood.checked=1"]
    tiny += [f"data.path={path}", "data.test_fraction=0.3"]
    flags = [f"--config.{each}" for each in tiny]
    assert main([*argv, "--config=vectors", *flags]) == 0
    assert "nats; 6 test" in capsys.readouterr().out
    run = sf.load(tmp_path / "run", "cpu")
    assert run.sample(5, steps=2).shape == (5, 3)
    unet = [
        "--config=vectors",
        *[f for f in flags if "model." not in f],
        "--config.model.name=unet",
    ]
    assert main([*argv[:2], f"--workdir={tmp_path / 'unet'}", *unet]) == 2
    assert "got unet on data of shape (3,): add --config.model.name=mlp" in capsys.readouterr().err
