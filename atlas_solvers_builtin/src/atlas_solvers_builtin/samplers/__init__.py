"""Integrators of the generative dynamics, one step at a time."""
