"""Ordinary differential equations: our per-sample Dormand-Prince solver, torchdiffeq and scipy."""

from scoreflow.sde.ode.libraries import check_method
from scoreflow.sde.ode.odeint import odeint, odeint_queue
from scoreflow.sde.ode.result import Solution, Status

__all__ = ["Solution", "Status", "check_method", "odeint", "odeint_queue"]
