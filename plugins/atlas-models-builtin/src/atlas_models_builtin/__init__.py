"""The networks that ship with Atlas: `unet` for images and `mlp` for points.

Each is an `nn.Module` with a frozen `Config`, built as `UNet(UNet.Config(...))`; see README.md.
"""
