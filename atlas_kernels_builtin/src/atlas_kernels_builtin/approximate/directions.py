"""Random orthogonal directions without a QR: signs, Hadamard transforms and a butterfly of random rotations."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.approximate.spectral import gamma

MATRIX_DIMENSION = 1024
"""Up to this many dimensions a product with the matrix is faster than the transforms that it stands for."""
CHUNK = 2**24


@attrs.frozen(eq=False)
class Directions:
    """`count` unit vectors of R^p, p = 2^k ≥ d, in blocks of p that are orthogonal; points are padded with zeros.

    Each block is a random orthogonal matrix B H D₂ H D₁: random signs D, Hadamard transforms H (Yu et al. 2016) and a
    butterfly B of random rotations (Genz 1998; Munkhoeva et al. 2018). Each row of B is uniform on the sphere, exactly
    and in any dimension, and so is each row of the whole; the transforms mix the rows. It takes O(p) numbers and
    O(p log p) operations a block and point.
    """

    count: int
    dim: int
    signs: Tensor
    """(3, blocks, p): before each of the two transforms, and before the butterfly."""
    rotations: tuple[tuple[Tensor, Tensor], ...]
    """Cosine and sine, (blocks, p / s, 1), of the butterfly's level s = 2, 4, …, p."""

    @classmethod
    def draw(cls, count: int, dim: int, generator: torch.Generator) -> Directions:
        """Draw them, in float64 on the CPU."""
        size = 1 << (dim - 1).bit_length()
        blocks = math.ceil(count / size)
        signs = 2.0 * torch.randint(2, (3, blocks, size), generator=generator, dtype=torch.float64) - 1
        levels = [2**level for level in range(1, size.bit_length())]
        return cls(count, dim, signs, tuple(_rotation(blocks, size, level, generator) for level in levels))

    @property
    def size(self) -> int:
        """p."""
        return self.signs.shape[-1]

    def to(self, like: Tensor) -> Directions:
        """The same on the device and in the dtype of `like`."""
        rotations = tuple((cosine.to(like), sine.to(like)) for cosine, sine in self.rotations)
        return attrs.evolve(self, signs=self.signs.to(like), rotations=rotations)

    def project(self, x: Tensor) -> Tensor:
        """Inner products with every direction: (n, d) -> (n, count)."""
        step = max(1, CHUNK // self.signs[0].numel())
        return torch.cat([self._project(part) for part in x.split(step)])  # type: ignore[no-untyped-call]

    def matrix(self) -> Tensor:
        """The directions themselves, cut to d coordinates: (count, d)."""
        rows = torch.arange(self.dim, device=self.signs.device).split(1024)  # type: ignore[no-untyped-call]
        units = (torch.nn.functional.one_hot(part, self.dim).to(self.signs) for part in rows)
        return torch.cat([self.project(unit) for unit in units]).mT.contiguous()

    def _project(self, x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (0, self.size - self.dim))[:, None, :]
        for signs in self.signs[:2]:
            padded = hadamard(padded * signs)
        out = padded * self.signs[2]
        for cosine, sine in self.rotations:
            halves = out.reshape(*out.shape[:-1], cosine.shape[1], 2, -1)
            top, bottom = halves.unbind(-2)
            out = torch.stack([cosine * top - sine * bottom, sine * top + cosine * bottom], dim=-2).flatten(-3)
        return out.flatten(-2)[:, : self.count]


def _rotation(blocks: int, size: int, level: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """cos² ~ Beta(level / 4, level / 4): the share of half of its coordinates in a uniform unit vector of R^level."""
    parts = gamma(level / 4, blocks * size // level * 2, generator).reshape(blocks, size // level, 1, 2)
    shares = (parts / parts.sum(-1, keepdim=True)).sqrt()
    return shares[..., 0], shares[..., 1]


def hadamard(x: Tensor) -> Tensor:
    """The orthonormal Hadamard transform of the last dimension, whose length is a power of 2, in p log p operations."""
    size, half = x.shape[-1], 1
    while half < size:
        top, bottom = x.reshape(*x.shape[:-1], -1, 2, half).unbind(-2)
        x = torch.stack([top + bottom, top - bottom], dim=-2).flatten(-3)
        half *= 2
    return x / math.sqrt(size)
