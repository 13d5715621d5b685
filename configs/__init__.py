"""Experiments, one a file: its differences from `default.py`."""

import importlib
import pkgutil
import sys

if __name__ == "configs":  # from a checkout, as experiment files of 0.1 do: the same modules
    sys.modules["configs"] = importlib.import_module("scoreflow.configs")
    for found in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"scoreflow.configs.{found.name}")
        sys.modules[f"configs.{found.name}"] = module
