"""The two ways in which a command can fail; `run.py` makes a line and an exit status of them."""


class RequestError(ValueError):
    """The request was wrong: nothing has been done (exit status 2)."""


class RunError(RuntimeError):
    """The run failed after it had begun (exit status 1)."""
