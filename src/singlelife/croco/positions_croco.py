"""Positions of patches: fixed sin-cos embeddings and rotary tables over two axes, for grids of any size."""

import torch

# Rotary tables, each (..., N, 1, head_dim): cosines, and sines with the sign of the rotated half folded in.
Rotations = tuple[torch.Tensor, torch.Tensor]

_SINCOS_BASE = 10000.0


def patch_positions(rows: int, columns: int, trained: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Row and column of every patch in raster order, float32 `(rows * columns, 2)`, in units of the trained grid.

    A grid of another size is stretched over the trained one, so that a patch in the middle of the image keeps the
    position that it had in training; the trained grid itself gives 0, 1, 2 ….
    """
    axes = [
        (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * (usual / count) - 0.5
        for count, usual in zip((rows, columns), trained, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)


def sincos_embedding(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Fixed embedding `(..., N, width)`, float32, of positions `(..., N, 2)`, as in MAE (arXiv 2111.06377).

    Sines then cosines of the column, then of the row, with frequencies from 1 down to 1/10000.
    """
    frequencies = _SINCOS_BASE ** -(torch.arange(width // 4, device=positions.device).float() / (width // 4))
    angles = positions.flip(-1).unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def rotations(positions: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotations:
    """Rotary tables (arXiv 2104.09864, over two axes) of positions `(..., N, 2)`.

    The first half of a head turns with the row and the second with the column; within a half, channel `c` is paired
    with channel `c + head_dim / 4`.
    """
    frequencies = theta ** -(torch.arange(head_dim // 4, device=positions.device).float() / (head_dim // 4))
    angles = positions.unsqueeze(-1) * frequencies
    cos = torch.stack([angles.cos()] * 2, dim=-2).flatten(-3)
    sin = torch.stack([-angles.sin(), angles.sin()], dim=-2).flatten(-3)
    return cos.to(dtype).unsqueeze(-2), sin.to(dtype).unsqueeze(-2)


def rotate(states: torch.Tensor, rotary: Rotations | None) -> torch.Tensor:
    """Turn queries or keys `(B, N, heads, head_dim)` by their positions; None leaves them as they are."""
    if rotary is None:
        return states
    cos, sin = rotary
    row, row_pair, column, column_pair = states.chunk(4, dim=-1)
    swapped = torch.cat([row_pair, row, column_pair, column], dim=-1)
    return torch.addcmul(states * cos, swapped, sin)
