"""All measurements on a CUDA device, in resumable calls of a few minutes."""
