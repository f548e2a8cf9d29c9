"""Transport between images, coarse to fine."""
