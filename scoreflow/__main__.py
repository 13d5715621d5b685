"""`python -m scoreflow`: the command line."""

from scoreflow.cli.main import script

if __name__ == "__main__":
    script()
