"""A checkout has sde, samplers, configs at top level: no module of theirs gets two names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code):
    """A fresh interpreter that finds the checkout's folders by their bare names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("room", ["sde", "samplers"])
@pytest.mark.parametrize("code", ["import {}", "import {}.types", "from {} import VPSDE"])
def test_a_bare_name_is_refused_in_one_line(room, code):
    done = python(code.format(room))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    expected = f"{room} is a part of scoreflow: import scoreflow.{room} instead"
    assert last == f"ImportError: {expected}"


@pytest.mark.parametrize("room", ["sde", "samplers"])
def test_the_refusal_costs_no_torch(room):
    code = f"""
import sys
try:
    import {room}
except ImportError:
    print("torch" in sys.modules, "{room}" in sys.modules)
"""
    assert python(code).stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "code",
    [
        "from configs import default",
        "import configs.default; from configs import default",
        "import configs; default = configs.default",
        "import scoreflow.configs.default; import configs.default as default",
        "from configs.default import get_config; from configs import default",
    ],
)
def test_configs_by_a_bare_name_are_those_of_scoreflow(code):
    check = """
import sys
import configs
import scoreflow.configs.default
import scoreflow.configs.digits
assert configs is scoreflow.configs
assert default is scoreflow.configs.default
import configs.digits
assert configs.digits is sys.modules["scoreflow.configs.digits"]
assert default.__name__ == "scoreflow.configs.default"
files = [module.__file__ for name, module in sys.modules.items() if name.startswith("scoreflow.c")]
assert len(files) == len(set(files))
print(default.get_config().seed)
"""
    done = python(f"{code}\n{check}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().isdigit()
