"""What a trained pipeline can do beside drawing from nothing, each task one function of the pipeline.

    pipeline = atlas_core.load("runs/digits")
    again = tasks.image_to_image(pipeline, images, strength=0.5)
    whole = tasks.inpaint(pipeline, images, mask)
    sharp = tasks.super_resolve(pipeline, small, factor=2)
    large = tasks.tiled(pipeline, 4, size=(64, 64))
    large = tasks.hierarchical(pipeline, 4, factor=2)

Samplers, grids and guidance are the pipeline's own: a task changes where sampling starts, what is already known of the
sample, or how the network is applied to an image larger than it was trained for.
"""

from atlas_core.tasks.hierarchical import hierarchical
from atlas_core.tasks.image_to_image import image_to_image
from atlas_core.tasks.inpaint import inpaint
from atlas_core.tasks.super_resolve import super_resolve
from atlas_core.tasks.tiled import tiled

__all__ = ["hierarchical", "image_to_image", "inpaint", "super_resolve", "tiled"]
