"""`python -m benchmarks.growth`."""

import sys

from benchmarks.growth.table import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
