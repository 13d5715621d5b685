"""What concerns a GPU alone: TF32, and tensors moved without a wait for each."""
