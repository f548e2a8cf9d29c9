"""Operators of few columns: random features and landmarks, each with a measured error."""
