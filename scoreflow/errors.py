"""Exceptions of a wrong request and of a failed run, each with its exit status."""


class RequestError(ValueError):
    """The request was wrong: nothing has been done (exit status 2)."""


class RunError(RuntimeError):
    """The run failed after it had begun (exit status 1)."""
