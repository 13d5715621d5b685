"""Sample quality: distances to data, precision and recall, classes, convergence order."""
