"""Couplings between two sets of points."""
