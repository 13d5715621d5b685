"""Check an ODE method and its tolerances by solving a trivial equation."""

import torch

from scoreflow.factory.choose import as_request_error
from scoreflow.sde.ode import odeint


def try_solver(section: str, method: str, rtol: tuple[float, ...]) -> None:
    """Refuse an ODE method that does not exist, or does not take such tolerances.

    Args:
        section: whose `method` it is, for the message.
        method: "dopri5", "torchdiffeq:NAME" or "scipy:NAME".
        rtol: relative tolerances of the parts of a state.
    """
    state = tuple(torch.zeros(1, 1, dtype=torch.float64) for _ in rtol)

    def solve(method: str) -> None:
        odeint(lambda _t, x, _rows: x, state, 0.0, 1e-3, method=method, rtol=rtol, atol=1.0)

    as_request_error(solve, method, f"{section}.method")
