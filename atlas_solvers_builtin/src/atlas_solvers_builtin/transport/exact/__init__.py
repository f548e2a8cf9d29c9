"""Transport without entropy."""
