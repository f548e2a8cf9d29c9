"""The times that a sampler visits. They matter more than the sampler."""
