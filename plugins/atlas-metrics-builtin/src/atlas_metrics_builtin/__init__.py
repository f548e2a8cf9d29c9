"""Metrics and baselines of Atlas: each score with its sample size, its features and what real data would reach."""
