"""Memory of the machine, in bytes, within the limit of a container."""

import os
from contextlib import suppress
from pathlib import Path

UNKNOWN = 4 << 30
"""What a process may count on where no system says it."""


def total_bytes() -> int:
    """All that there is, swap included; 2^63 where no system says it."""
    found = []
    with suppress(OSError, ValueError, KeyError):  # no Linux
        found.append(_of_linux("MemTotal") + _of_linux("SwapTotal"))
    with suppress(OSError, ValueError):  # no container, or one without a limit
        found.append(_of_container("max"))
    return min(found or _physical(), default=2**63)


def available_bytes() -> int:
    """What this process could still take."""
    found = []
    with suppress(OSError, ValueError, KeyError):
        found.append(_of_linux("MemAvailable"))
    with suppress(OSError, ValueError):
        found.append(max(0, _of_container("max") - _of_container("current")))
    return min(found or (each // 2 for each in _physical()), default=UNKNOWN)


def _of_linux(name: str) -> int:
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[name].split()[0])


def _of_container(name: str) -> int:
    return int(Path(f"/sys/fs/cgroup/memory.{name}").read_text("ascii"))


def _physical() -> list[int]:
    """The one number that other systems give, if they do."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return []
    return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
