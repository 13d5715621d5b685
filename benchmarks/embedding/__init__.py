"""Labels of a network, compared by the exact likelihood and by what a solver pays for it."""
