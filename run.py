"""The command line of ScoreFlow: `python run.py --help`."""

import sys

from scoreflow.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
