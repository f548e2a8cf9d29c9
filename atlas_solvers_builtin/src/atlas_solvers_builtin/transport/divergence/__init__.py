"""Entropic transport without its bias."""
