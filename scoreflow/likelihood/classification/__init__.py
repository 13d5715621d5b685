"""Class-conditional likelihoods as a classifier, with the posterior's calibration."""
