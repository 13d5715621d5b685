"""One file a --mode, each with `run(request, argv)`."""
