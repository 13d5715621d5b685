"""The comparison as a whole."""

from benchmarks.likelihood.bench import Bench, Points
from benchmarks.likelihood.equal_error.cases import cases_of
from benchmarks.likelihood.equal_error.front import compared
from benchmarks.likelihood.equal_error.reference import Reference
from benchmarks.likelihood.equal_error.rows import measured, probe_variance, row
from scoreflow.storage.atomic_files import Json


def equal_error(bench: Bench, points: Points, reference: Reference, repeats: int) -> Json:
    """Rows of all cases, the seconds at equal error, and what they were measured against."""
    found = measured(bench, points, cases_of(bench), reference, repeats)
    variance = probe_variance(bench, found)
    rows = [row(bench, each, variance) for each in found]
    bits = {name: each.tolist() for name, each in reference.exact.items()}
    return {"probe_variance": variance, "rows": rows, **compared(rows), "exact_bits": bits}
