"""`python -m benchmarks.growth`."""

from benchmarks.growth.table import main

if __name__ == "__main__":
    main()
