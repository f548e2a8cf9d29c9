"""Interpolants between data and noise: x_t = α(t) x₀ + σ(t) z, t = 0 data, t = 1 noise."""
