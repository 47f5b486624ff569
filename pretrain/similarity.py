"""Cosine similarities that are the same number wherever they are computed, and the nearest images of a query.

A pair must have one similarity, or ties break at random: in floating point the last bit of a dot product depends on the
tile's shape, its place in the gallery, the device and the number of threads. So the similarity of two features is
*defined* as the product of their fixed-point forms, which float64 computes without rounding, in any order.
`pretrain.ranking` ranks by it; fp32 products only sort out, within `fp32_error`, which pairs need it.

Shapes: N features of D numbers, Q queries, G gallery images, R queries and T images of one tile.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sharding.errors import UserError

FIXED_POINT_STEP = 2.0**-26


def fixed_point(features: Tensor, name: str, places: Tensor | None = None) -> Tensor:
    """L2-normalise features [N, D] of any float dtype and round them to multiples of 2⁻²⁶, in float64.

    Products of two such rows are multiples of 2⁻⁵² and their partial sums stay below 2 (Cauchy-Schwarz), so float64
    holds every one exactly. Cosines move by about 1e-8, less than the rounding of fp32. The bits of a row depend on
    that row alone. A row that is zero or not finite raises UserError, which calls it `name` feature
    places[row], or by its row where no int64 [N] places are given.
    """
    norm = _norms(features)
    unusable = ~(torch.isfinite(norm) & (norm > 0))
    if unusable.any():
        row = int(unusable.nonzero()[0] if places is None else places[unusable][0])
        raise UserError(f"{name} feature {row} is zero or not finite, so it has no cosine: check the checkpoint")
    unit = torch.div(features, norm[:, None])  # float64: the wider of the two
    return unit.mul_(1 / FIXED_POINT_STEP).round_().mul_(FIXED_POINT_STEP)


def _norms(features: Tensor) -> Tensor:
    """L2 norms float64 [N], by adding halves: how a library splits its sum over a row may depend on the other rows."""
    squares = features.double() ** 2
    while (width := squares.shape[1]) > 1:
        half = (width + 1) // 2
        squares[:, : width - half] += squares[:, half:]
        squares = squares[:, :half]
    return squares[:, 0].sqrt()


def fp32_error(dimensions: int) -> float:
    """By how much an fp32 product of two fixed-point features rounded to fp32 may miss their similarity, at most.

    With u = 2⁻²⁴ and D < 2¹⁶: D·u for a sum of D products in any order, fused or not (Jeannerod & Rump 2013, Improved
    error bounds for inner products, Theorem 3.1), 2 u for rounding the features, 1 u for rounding a threshold that the
    product is compared with; the other 5 u cover the terms in u² and underflow.
    """
    return (dimensions + 8) * 2.0**-24


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products of fp32 tensors in fp32: no autocast, no TF32 or bf16, which training may have asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def top_k(query: Tensor, gallery: Tensor, k: int, *, tile: int = 1024) -> tuple[Tensor, Tensor]:
    """The k images of a gallery [G, D] most similar to each query [Q, D], streamed in tiles.

    Returns the cosines, float64 [Q, k] in falling order, and the images' places in the gallery, int64 [Q, k]; of
    equally similar images the one that comes first. With fewer than k images, all of them. Features as in
    `fixed_point`.

    >>> top_k(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 4.0], [5.0, 0.0]]), 2)[1]
    tensor([[2, 1]])
    """
    queries = torch.arange(len(query), device=query.device)
    best = [_top_k(fixed_point(query[rows], "query", rows), gallery, k, tile) for rows in queries.split(tile)]
    similarity, index = zip(*best, strict=True)
    return torch.cat(similarity), torch.cat(index)


def _top_k(query: Tensor, gallery: Tensor, k: int, tile: int) -> tuple[Tensor, Tensor]:
    """`top_k` of one tile of queries in fixed point."""
    similarity = query.new_empty(len(query), 0)
    index = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for places in torch.arange(len(gallery), device=query.device).split(tile):
        images = fixed_point(gallery[places], "gallery", places)
        # A stable sort keeps what was found before in front of its equals; topk promises no order among them.
        found = torch.cat([similarity, query @ images.T], dim=1).sort(dim=1, descending=True, stable=True)
        similarity = found.values[:, :k]
        index = torch.cat([index, places.expand(len(query), -1)], dim=1).gather(1, found.indices[:, :k])
    return similarity, index
