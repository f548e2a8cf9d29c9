"""Operators that are kept for the next time."""
