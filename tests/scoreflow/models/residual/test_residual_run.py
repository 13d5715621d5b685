"""A run whose network predicts the residual: trained, resumed, exported, imported; and refused."""

import pytest
import torch

import scoreflow as sf
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import experiment
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve

RESIDUAL = {
    "model.prediction": "residual",
    "model.label": "log_snr",
    "model.channels": 8,
    "model.multipliers": [1],
    "model.blocks": 1,
    "model.attention_sizes": [],
    "model.attention_middle": False,
    "model.num_groups": 4,
    "sde.num_steps": 50,
    "training.num_steps": 4,
    "training.batch_size": 16,
    "training.warmup_steps": 0,
    "training.log_every": 1,
    "training.checkpoint_every": 2,
    "sampling.steps": 4,
}


def trained(at):
    for _ in sf.train("digits", at, RESIDUAL):
        pass
    return sf.load(at)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("residual") / "run")


def test_it_knows_the_training_images_histograms(run):
    images = run.data.train
    counts = torch.nn.functional.one_hot(images[:, 0].long(), 17).double().mean(0)
    law = run.model.pixels.probabilities[0].double()
    # 64 pseudo-counts among 1437 images, and a share of 1e-4 of the uniform law
    assert (law - counts).abs().max() < 64 / 1437 + 1e-4
    assert torch.allclose(law.sum(2), torch.ones(8, 8).double(), atol=1e-5)


def test_barely_trained_it_is_as_good_as_independent_pixels(run):
    """Within what an answer of nothing leaves: the cross entropy of the histograms."""
    test = run.data.test[:24]
    law = run.model.pixels.probabilities[0].double()
    nats = -law.log().expand(24, 8, 8, 17).gather(3, test[:, 0, :, :, None].long())
    entropy = float(nats.mean()) / torch.log(torch.tensor(2.0)).item()
    found = run.log_likelihood(test, nodes=48, checked=0, seed=3)
    assert abs(float(found.bits_per_dim.double().mean()) - entropy) < 0.1


def test_a_training_goes_on_to_the_bit(run, tmp_path):
    for each in sf.train("digits", tmp_path / "half", RESIDUAL):
        if each.step == 3:  # after the checkpoint of step 2
            break
    whole = trained(tmp_path / "half")
    for name, value in run.model.network.state_dict().items():
        assert torch.equal(value, whole.model.network.state_dict()[name]), name


def test_an_export_of_it_is_read_back(run, tmp_path):
    run.export("safetensors", tmp_path / "it.safetensors")
    imported = sf.import_network(
        tmp_path / "it.safetensors", tmp_path / "imported", data="digits", anyway=True
    )
    assert imported.config.model.num_levels == 17
    drawn = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 1, 8, 8, generator=drawn), torch.tensor(20.0, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(imported.model(x, t).v, run.model(x, t).v)


def test_other_images_have_their_own_histograms(run, tmp_path):
    """Of weights that a new run begins with."""
    values = RESIDUAL | {"training.init": str(run.folder.path), "training.num_steps": 1}
    images = torch.full((40, 1, 8, 8), 16, dtype=torch.uint8)
    for _ in sf.train("digits", tmp_path / "bright", values | {"training.checkpoint_every": 1},
                      data=images, device="cpu"):  # fmt: skip
        pass
    found = sf.load(tmp_path / "bright").model.pixels.probabilities
    assert (found[..., 16] > 0.99).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.name": "toy", "model.name": "mlp"}, "needs model.name = unet and images of"),
        ({"data.scale": "ends"}, "data_scale = 1"),
        ({"model.num_levels": 16}, "model.num_levels = 16 must be that of the training images"),
        ({"model.data_range": "unit"}, "data_range = symmetric"),
        ({"training.dequantization": "centre"}, "knows a level as a bin"),
    ],
)
def test_what_it_cannot_be_of_is_refused(keys, message):
    config = resolve({**flatten(Config().to_dict()), **RESIDUAL, **keys}, "the test")
    with pytest.raises(RequestError, match=message):
        experiment(config, torch.device("cpu"))
