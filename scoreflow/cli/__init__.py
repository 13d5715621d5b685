"""The command line: one file a --mode (in modes/), calling the same functions as Python.

Sampling, likelihood and training call what `scoreflow.load` and `scoreflow.train` call
(`TrainedRun.plan`, `draw_samples`, `dataset_likelihood.measure`, `training_run.intervals`).
Comparison, bounds, detection, classifier, certificate and editing have a command only.
"""
