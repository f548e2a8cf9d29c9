"""Kernels: similarities of points, and what is made of them."""
