"""DIR/report.html from the results of a run."""
