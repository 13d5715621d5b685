"""A network of one convolution, and levels for it: what computes the same on either device."""

import torch
from torch import Tensor, nn

from scoreflow.data.dataset import Data
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.vp import VPSDE

N, NUM_LEVELS, SIDE = 20, 17, 2


class Convolution(nn.Module):
    """(x, label, classes) -> v, a convolution damped by the label and shifted by the class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.num_classes = num_classes

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        """Shaped like x."""
        h: Tensor = self.conv(x) * (1 + label / N)[:, None, None, None]
        return h if classes is None else h + 0.1 * (classes + 1)[:, None, None, None]


def model(
    device: torch.device | str, channels: int = 1, num_classes: int = 0, sde: SDE | None = None
) -> ScoreModel:
    """The network as a Denoiser, without gradients of its weights."""
    network = Convolution(channels, num_classes).to(device).requires_grad_(False)
    return ScoreModel(network, sde or VPSDE.log_linear(N, 0.05, 0.05), "v")


def levels(device: torch.device | str, count: int, channels: int = 1) -> Tensor:
    """Images of levels, (count, channels, 2, 2) uint8."""
    u = Noise.of(5, 0, count).uniform(Stream.DATA, (channels, SIDE, SIDE))
    return (u * NUM_LEVELS).floor().to(torch.uint8).to(device)


def data(device: torch.device | str, count: int = 6, channels: int = 1, classes: int = 2) -> Data:
    """The same for training and testing, with labels."""
    images, labels = levels(device, count, channels), torch.arange(count) % classes
    return Data("small", images, images.clone(), NUM_LEVELS, labels.to(device), labels.to(device))
