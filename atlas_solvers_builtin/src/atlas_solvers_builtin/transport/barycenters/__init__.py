"""Distributions that are nearest to several."""
