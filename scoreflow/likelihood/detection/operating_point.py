"""The false alarms that are left at a fixed share of detections, with their error.

What is passed as ordinary is what lies up to a threshold. At the threshold that passes 95 % of
the ordinary data, the share of other data that passes too is known as the FPR at 95 % TPR.
"""

import math

from torch import Tensor

from scoreflow.uncertainty import rate_error

PASSED = 0.95
"""Of the ordinary data."""


def false_positives(
    ordinary: Tensor, other: Tensor, passed: float = PASSED
) -> tuple[float, float]:
    """The share of other data that passes where so many of the ordinary do, and its error.

    The threshold is the least score that passes at least that share. With n ordinary and m other
    data and G the distribution of the others' scores, G at the threshold c errs by two
    independent parts: the count of others, a rate of m; and c itself, an order statistic. The
    share of ordinary data up to c has the standard deviation s = sqrt(passed (1 - passed) / n),
    so c lies within one standard error between the quantiles at passed -+ s, and half the
    difference of G between those is what it moves the rate by (Woodruff's 1952 interval of a
    quantile, carried through G).

    Args:
        ordinary: (n,) scores, high is anomalous, n >= 2.
        other: (m,) scores, m >= 2.
        passed: the share of the ordinary that passes, in (0, 1).

    Raises:
        ValueError: too few scores.
    """
    n, m = len(ordinary), len(other)
    if n < 2 or m < 2:
        raise ValueError(f"two scores of each are needed, got {n} and {m}")
    own, others = ordinary.double(), other.double()

    def rate(threshold: Tensor) -> float:
        return float((others <= threshold).double().mean())

    spread = math.sqrt(passed * (1 - passed) / n)
    ends = own.quantile(own.new_tensor([passed - spread, passed + spread]).clamp(0, 1))
    by_threshold = (rate(ends[1]) - rate(ends[0])) / 2
    found = rate(own.sort().values[math.ceil(passed * n - 1e-9) - 1])
    return found, math.hypot(rate_error(found, m), by_threshold)
