"""The command line of ScoreFlow: `python run.py --help`."""

import os
import sys

from scoreflow.main import main

# Threads that wait should sleep: where other programs want the cores too, spinning ones slow a
# training step several times over. To be set before torch is first imported, which main does late.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    sys.exit(main(sys.argv))
