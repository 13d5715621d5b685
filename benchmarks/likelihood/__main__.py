"""`python -m benchmarks.likelihood`."""

import sys

from benchmarks.likelihood.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
