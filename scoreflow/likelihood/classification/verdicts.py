"""Classifiers of the same images side by side: accuracy, calibration, confusion, pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations

from torch import Tensor

from scoreflow.likelihood.classification.agreement import confusion, mcnemar, wilson
from scoreflow.likelihood.classification.bayes import Prior, log_posterior
from scoreflow.likelihood.classification.bound_by_class import LogLikelihoods
from scoreflow.likelihood.classification.calibration import calibration, tempered
from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import rate_error

MOST_MISSES = 24
"""Images that a result names as misclassified."""
FEWEST_TEMPERED = 8
"""Data below which no temperature is fitted."""


@dataclass(frozen=True)
class Method:
    """What a classifier says of each image.

    Attributes:
        name: of it.
        found: the column of the class found, (n,) int64; -1 for a class that is none of them.
        log_probs: log p(k | x), (n, K); None where it states no probabilities.
        about: what else a result says of it.
        variant: whether it is the method before it at another temperature.
    """

    name: str
    found: Tensor
    log_probs: Tensor | None = None
    about: Json = field(default_factory=dict)
    variant: bool = False

    @classmethod
    def stating(
        cls, name: str, log_probs: Tensor, about: Json | None = None, variant: bool = False
    ) -> "Method":
        """One that finds the class of the greatest probability."""
        return cls(name, log_probs.argmax(1), log_probs, about or {}, variant)


def by_likelihood(name: str, found: LogLikelihoods, prior: Prior, own: Tensor) -> list[Method]:
    """Bayes' rule from log p(x | k), and the same at temperatures fitted on other images.

    The second is left out where there is no such temperature.

    Args:
        name: of the likelihood.
        found: it, (n, K).
        prior: of the classes.
        own: the column of each image's class, (n,).
    """
    about = {"evaluations": float(found.evaluations.sum(1).double().mean())}
    methods = [Method.stating(name, log_posterior(found.nats, prior.log), about)]
    fitted = tempered(found.nats, prior.log, own) if len(own) >= FEWEST_TEMPERED else None
    if fitted is not None:
        log_probs, temperatures = fitted
        told = {**about, "temperatures": temperatures}
        methods.append(Method.stating(f"{name}, tempered", log_probs, told, variant=True))
    return methods


def as_result(methods: Sequence[Method], own: Tensor, prior: Prior) -> Json:
    """Methods as a result for results/; the first is its headline.

    Args:
        methods: of the same images.
        own: the column of each image's class, (n,).
        prior: of the classes.
    """
    n, first = len(own), methods[0]
    right = float((first.found == own).double().mean())
    apart = [each for each in methods if not each.variant]
    return {
        "value": right,
        "standard_error": rate_error(right, n),
        "unit": "share of test images whose class was found",
        "num_images": n,
        "classes": prior.classes.tolist(),
        "prior": prior.log.exp().tolist(),
        "methods": [_row(each, own, len(prior.classes)) for each in methods],
        "pairs": [_pair(a, b, own) for a, b in combinations(apart, 2)],
        "misses": misses(first, own, prior),
    }


def _row(method: Method, own: Tensor, num_classes: int) -> Json:
    count, n = int((method.found == own).sum()), len(own)
    known = method.found >= 0
    row: Json = {
        "name": method.name,
        "accuracy": count / n,
        "standard_error": rate_error(count / n, n),
        "interval": list(wilson(count, n)),
        "confusion": confusion(own[known], method.found[known], num_classes),
        **method.about,
    }
    if method.log_probs is not None:
        row["calibration"] = asdict(calibration(method.log_probs, own))
    return row


def _pair(a: Method, b: Method, own: Tensor) -> Json:
    found = mcnemar(a.found == own, b.found == own)
    return {"first": a.name, "second": b.name, **asdict(found)}


def misses(method: Method, own: Tensor, prior: Prior) -> list[Json]:
    """The images that it takes for another class, the surest first."""
    assert method.log_probs is not None, "the first method states probabilities"
    stated = method.log_probs.max(1).values.exp()
    wrong = (method.found != own).nonzero()[:, 0]
    order = wrong[stated[wrong].argsort(descending=True, stable=True)][:MOST_MISSES]
    return [
        {
            "image": int(k),
            "own": int(prior.classes[own[k]]),
            "found": int(prior.classes[method.found[k]]),
            "stated": float(stated[k]),
        }
        for k in order
    ]


def saving(found: LogLikelihoods, in_full: int) -> Json:
    """What early elimination saved: evaluations done, and those of all classes in full.

    Args:
        found: of every image and class.
        in_full: evaluations of a class that stands to the end.
    """
    done, full = int(found.evaluations.sum()), in_full * found.evaluations.numel()
    to_the_end = (found.evaluations == in_full).sum(1)
    standing = to_the_end.clamp(min=1).double()  # where one was left, it was asked no further
    return {
        "evaluations": done,
        "in_full": full,
        "saved": 1 - done / full,
        "standing": float(standing.mean()),
    }


def table(result: Json) -> str:
    """A result in lines: the methods, and the headline against the others in pairs."""
    lines = [f"{'method':<28}{'accuracy':>18}{'NLL, nats':>18}{'ECE':>16}  evaluations"]
    for row in result["methods"]:
        accuracy = f"{row['accuracy']:.4f} +- {row['standard_error']:.4f}"
        stated = row.get("calibration")
        nll = ece = ""
        if stated:
            nll = f"{stated['nll']:.3f}"
            if stated["nll_error"] is not None:  # of one image there is none
                nll += f" +- {stated['nll_error']:.3f}"
            ece = f"{stated['ece']:.3f} +- {stated['ece_error']:.3f}"
        cost = f"{row['evaluations']:.0f}" if "evaluations" in row else ""
        lines.append(f"{row['name']:<28}{accuracy:>18}{nll:>18}{ece:>16}  {cost}")
    for pair in result["pairs"]:
        if pair["first"] == result["methods"][0]["name"]:
            lines.append(
                f"{pair['first']} - {pair['second']}: {pair['difference']:+.4f} +- "
                f"{pair['standard_error']:.4f} ({pair['first_only']} images against "
                f"{pair['second_only']}, p = {pair['p_value']:.2g})"
            )
    return "\n".join(lines)
