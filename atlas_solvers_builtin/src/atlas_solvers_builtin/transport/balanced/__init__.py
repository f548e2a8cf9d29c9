"""Entropic transport of all the mass: `sinkhorn`."""
