"""Snapshots of the averages of a training: DIR/averages/{step:08d}.pt, one with every checkpoint.

    {"step": k, "lengths": [0.05, 0.1], "averages": [weights by name, ...], "trained_with": ...}

Checkpoints are dropped (`training.keep`), these are not: averages of other lengths are
reconstructed from all of them. They are written like checkpoints, whole and with a hash, and
before the checkpoint of their step, so there is none without. Size: float32, all averages.
"""

import re
from pathlib import Path

from torch import Tensor, nn

from scoreflow.errors import RunError
from scoreflow.storage.atomic_files import Json, make_folder, reason_of
from scoreflow.storage.checkpoints.content import check_step, check_trained_with, check_weights
from scoreflow.storage.checkpoints.states import DamagedError, read_state, sidecar, write_state

AVERAGES = "averages"
"""The folder in a run's."""


def path_of(run: Path, step: int) -> Path:
    """Where the snapshot of a step belongs."""
    return run / AVERAGES / f"{step:08d}.pt"


def steps_of(run: Path) -> list[int]:
    """The steps of the snapshots in a run's folder, rising, whether whole or not."""
    names = (re.fullmatch(r"(\d{8,})\.pt", path.name) for path in (run / AVERAGES).glob("*"))
    return sorted(int(name[1]) for name in names if name)


def write(
    run: Path, step: int, lengths: tuple[float, ...], averages: list[Json], record: Json
) -> None:
    """Write the snapshot of a step.

    Args:
        run: the run's folder.
        step: of the training.
        lengths: of the averages.
        averages: weights by name, one a length.
        record: the entry that says what they were trained with.
    """
    path = path_of(run, step)
    make_folder(path.parent)
    state = {"step": step, "lengths": list(lengths), AVERAGES: averages, **record}
    write_state(path, state)


def read(run: Path, step: int, lengths: tuple[float, ...], network: nn.Module) -> Json:
    """A snapshot, on the CPU, with weights that the network can take.

    Args:
        run: the run's folder.
        step: of the training.
        lengths: of the averages that it must hold.
        network: of the run.

    Raises:
        DamagedError: it is missing, not whole, or holds something else; names the file.
    """
    path = path_of(run, step)
    state = read_state(path, "cpu")
    try:
        check_step(step, state)
        check_trained_with(state)
        held = state.get(AVERAGES)
        if state.get("lengths") != list(lengths) or not isinstance(held, list):
            raise DamagedError(
                f"its lengths must be {list(lengths)}, got {state.get('lengths')!r:.40}"
            )
        if len(held) != len(lengths):
            raise DamagedError(f"it must have {len(lengths)} averages, got {len(held)}")
        for number, weights in enumerate(held):
            check_weights(f"{AVERAGES}[{number}]", weights, network)
    except DamagedError as error:
        raise DamagedError(f"{path} fits its hash, but {error}") from error
    return state


def forget_after(run: Path, step: int) -> None:
    """Remove the snapshots of later steps, which a training that goes on from here makes anew.

    Raises:
        RunError: one cannot be removed.
    """
    for path in (path_of(run, later) for later in steps_of(run) if later > step):
        try:
            path.unlink(missing_ok=True)
            sidecar(path).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot remove {path} ({reason_of(error)})") from error


def size(network: nn.Module, count: int) -> int:
    """Bytes of a snapshot of so many averages, but for a few hundred of its own."""
    tensors: list[Tensor] = list(network.state_dict().values())
    return count * sum(each.numel() * each.element_size() for each in tensors)
