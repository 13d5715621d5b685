"""Bayes' rule over classes, and the prior of a data set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.errors import RequestError


@dataclass(frozen=True)
class Prior:
    """Of the classes that are told apart.

    Attributes:
        classes: their numbers, ascending, (K,) int64.
        log: log p(k), (K,) float64.
    """

    classes: Tensor
    log: Tensor

    @classmethod
    def of_labels(cls, labels: Tensor, uniform: bool = False) -> "Prior":
        """By the shares of training data; classes without a datum have no part in it.

        Args:
            labels: of the training data, (n,).
            uniform: whether those that are there are equally likely.

        Raises:
            RequestError: there are fewer than two classes.
        """
        classes, counts = labels.cpu().unique(return_counts=True)
        if len(classes) < 2:
            raise RequestError(
                f"--mode classify tells classes apart, and the training data have {len(classes)}: "
                "it takes labelled data of two classes or more"
            )
        shares = torch.ones_like(counts) if uniform else counts
        return cls(classes, (shares.double() / shares.sum()).log())

    def columns(self, labels: Tensor) -> Tensor:
        """Where classes stand among these: (n,); -1 for one that is none of them."""
        labels = labels.cpu()
        place = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        return torch.where(self.classes[place] == labels, place, -1)


@dataclass(frozen=True)
class Posterior:
    """Classes of some data.

    Attributes:
        classes: the numbers of those told apart, (K,) int64.
        log_probs: log p(class | x), (n, K) float64.
        nats: log p(x | class), of integers log P, (n, K) float64.
        evaluations: of the network, (n, K).
    """

    classes: Tensor
    log_probs: Tensor
    nats: Tensor
    evaluations: Tensor

    @property
    def found(self) -> Tensor:
        """The number of the most likely class of each, (n,) int64."""
        return self.classes[self.log_probs.argmax(1)]


def log_posterior(nats: Tensor, log_prior: Tensor, temperature: float = 1.0) -> Tensor:
    """Log p(k | x), of p(x | k)^(1 / temperature): (n, K).

    Args:
        nats: log p(x | k), (n, K).
        log_prior: (K,).
        temperature: above 0; 1 is Bayes' rule.
    """
    return (nats / temperature + log_prior.to(nats.device)).log_softmax(1)
