"""`python -m benchmarks.clocks`."""

import sys

from benchmarks.clocks.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
