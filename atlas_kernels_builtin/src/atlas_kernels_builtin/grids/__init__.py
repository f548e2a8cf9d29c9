"""Operators on regular grids: images, volumes, histograms."""
