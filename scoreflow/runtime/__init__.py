"""The machine: processes, device, environment, progress bar, stopwatch."""
