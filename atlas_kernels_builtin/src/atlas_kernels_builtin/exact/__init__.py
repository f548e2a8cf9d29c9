"""Operators without approximation: stored entries, streamed blocks, one fused pass on a GPU."""
