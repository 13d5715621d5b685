"""What a network does between its convolutions, in one kernel each way on a GPU."""
