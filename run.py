"""The command line of ScoreFlow: `python run.py --help`."""

from scoreflow.cli.main import script

if __name__ == "__main__":
    script()
