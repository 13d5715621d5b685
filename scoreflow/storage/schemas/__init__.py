"""What the files of a run must hold; those of results that are shown: `report.schemas`."""
