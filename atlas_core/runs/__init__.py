"""A run is a folder: what it holds, and how it is written so that a kill at any moment loses nothing."""
