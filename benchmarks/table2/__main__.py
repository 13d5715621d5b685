"""`python -m benchmarks.table2`."""

import sys

from benchmarks.table2.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
