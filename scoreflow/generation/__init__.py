"""Drawing samples from a network: the plan, the loop, pictures and image editing."""
