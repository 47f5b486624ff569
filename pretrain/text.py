"""Captions to packed token rows: CLIP BPE ids of a batch laid end to end, with no padding.

The ids are those of open_clip's tokenizer, truncated to the context with the end token kept. Causal text never sees
what stands to its right, so a packed caption gives the features of the padded one exactly.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PackedText:
    """B captions in one row of T tokens.

    ids, positions: int64 [T]. boundaries: int32 [B + 1], caption b is ids[boundaries[b]:boundaries[b + 1]].
    longest: tokens of the longest caption of this batch.
    """

    ids: Tensor
    positions: Tensor
    boundaries: Tensor
    longest: int

    def __len__(self) -> int:
        return len(self.boundaries) - 1

    @property
    def ends(self) -> Tensor:
        """Where each caption's end token stands, int64 [B]."""
        return self.boundaries[1:].long() - 1

    def to(self, device: torch.device) -> "PackedText":
        return PackedText(
            ids=self.ids.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            boundaries=self.boundaries.to(device, non_blocking=True),
            longest=self.longest,
        )


@lru_cache(maxsize=200_000)
def tokenize(caption: str, context_length: int) -> tuple[int, ...]:
    """CLIP BPE ids: start token, at most context_length - 2 words pieces, end token."""
    bpe = _tokenizer()
    return (bpe.sot_token_id, *bpe.encode(caption)[: context_length - 2], bpe.eot_token_id)


def pack(rows: list[tuple[int, ...]]) -> PackedText:
    """Token rows laid end to end."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    boundaries = torch.zeros(len(rows) + 1, dtype=torch.int32)
    torch.cumsum(lengths, 0, out=boundaries[1:])
    return PackedText(
        ids=torch.tensor([token for row in rows for token in row], dtype=torch.int64),
        positions=torch.cat([torch.arange(int(n)) for n in lengths]),
        boundaries=boundaries,
        longest=int(lengths.max()),
    )


@cache
def _tokenizer():  # type: ignore[no-untyped-def]  # open_clip has no type stubs
    from open_clip.tokenizer import SimpleTokenizer  # late: open_clip costs seconds to import

    return SimpleTokenizer()
