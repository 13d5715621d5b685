"""The command line of ScoreFlow: `python run.py --help`."""

import os
import sys

# How long an idle OpenMP thread spins before it sleeps; torch reads it when it is imported. GNU's
# own is so long that on cores shared with other work every small operation waits for its turn.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from scoreflow.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
