"""Plans of few factors, in linear time."""
