"""Entropic transport that may make and destroy mass."""
