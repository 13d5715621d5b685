"""A network compiles whole: one graph, whatever its style, and it answers as the plain one."""

import pytest
import torch

from scoreflow.models.unet import UNet

SMALL = {
    "image_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention_sizes": (4,),
    "num_groups": 4,
    "dropout": 0.3,
}
STYLES = {
    "ddpm": {"num_classes": 3},
    "adm and ncsn++": {
        "scale_shift": True,
        "resample": "residual_conv",
        "fir": True,
        "input_pyramid": True,
        "rescaled_skips": True,
        "heads": 2,
        "time_embedding": "fourier",
        "recompute": True,
    },
}
BATCH = 3


def given(network):
    """Images in the order of memory that a training has, and all that is asked with them."""
    x = torch.randn(BATCH, 2, 8, 8).contiguous(memory_format=torch.channels_last)
    label = torch.tensor([0, 2, -1]) if network.num_classes else None
    words = torch.randint(2**32, (BATCH, network.dropout_places, 2)) if network.training else None
    return x, torch.arange(BATCH).float(), label, words


@pytest.mark.parametrize(
    ("style", "training"), [("ddpm", True), ("ddpm", False), ("adm and ncsn++", True)]
)
def test_a_network_is_one_graph(style, training):
    network = UNet(**SMALL, **STYLES[style]).to(memory_format=torch.channels_last)
    network.train(training)
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    asked = given(network)
    compiled = torch.compile(network, backend=counting)
    assert compiled(*asked).equal(network(*asked))
    assert len(graphs) == 1
