"""Captions to packed token rows: CLIP BPE ids of a batch laid end to end, without padding.

The ids are those of open_clip's tokenizer, truncated to the context with the end token kept. Causal text never sees
what stands to its right, so a packed caption gives the features of the padded one exactly.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PackedText:
    """B captions in one row of T tokens, followed by filler rows where T was rounded up.

    ids, positions: int64 [T]. boundaries: int32 [R + 1] with R >= B, row r is ids[boundaries[r]:boundaries[r + 1]].
    captions: B. longest: tokens of the longest row.
    """

    ids: Tensor
    positions: Tensor
    boundaries: Tensor
    captions: int
    longest: int

    @property
    def rows(self) -> int:
        """R, captions and filler."""
        return len(self.boundaries) - 1

    @property
    def ends(self) -> Tensor:
        """Where each caption's end token stands, int64 [B]."""
        return self.boundaries[1 : self.captions + 1].long() - 1

    @property
    def tokens(self) -> int:
        """Tokens of the captions, without filler."""
        return int(self.boundaries[self.captions])

    @cached_property
    def buckets(self) -> "Buckets":
        """The rows grouped by length, for attention without a packed kernel."""
        return bucket_rows(self.boundaries)

    def to(self, device: torch.device) -> "PackedText":
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            boundaries=self.boundaries.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Rows of similar length, padded to the longest of their group, and the way back.

    tokens: per group, int64 [n, L], which token of the batch stands there (padding repeats the row's last one).
    valid: per group, bool [n, L], False at padding. inverse: int64 [T], where each token stands among the valid ones of
    all groups laid end to end.
    """

    tokens: tuple[Tensor, ...]
    valid: tuple[Tensor, ...]
    inverse: Tensor


def bucket_rows(boundaries: Tensor, width: int = 32) -> Buckets:
    """Group rows by length, one group for every `width` tokens: at most `width` - 1 tokens of padding a row.

    Attention over captions of 25 to 77 tokens costs half of what padding all of them to 77 does (measured).
    """
    starts, lengths = boundaries[:-1].long(), boundaries.diff().long()
    group = -(-lengths // width)
    tokens, valid = [], []
    for number in group.unique().tolist():
        if number > 0:
            start, length = starts[group == number, None], lengths[group == number, None]
            position = torch.arange(int(length.max()), device=boundaries.device)
            tokens.append(start + torch.minimum(position, length - 1))
            valid.append(position < length)
    order = torch.cat([t[v] for t, v in zip(tokens, valid, strict=True)])
    return Buckets(tokens=tuple(tokens), valid=tuple(valid), inverse=order.argsort())


@lru_cache(maxsize=200_000)
def tokenize(caption: str, context_length: int) -> tuple[int, ...]:
    """CLIP BPE ids: start token, at most context_length - 2 words pieces, end token."""
    bpe = _tokenizer()
    return (bpe.sot_token_id, *bpe.encode(caption)[: context_length - 2], bpe.eot_token_id)


def pack(rows: list[tuple[int, ...]], multiple: int = 1) -> PackedText:
    """Token rows laid end to end, with filler rows up to the next multiple of `multiple` tokens.

    A few distinct T instead of a new one at every step: oneDNN keeps code for each shape it has met, 10 MB a step in a
    small bf16 model (measured). The number of filler rows does not vary either; spare ones are empty.
    """
    captions, longest = len(rows), max(len(row) for row in rows)
    spare = -sum(len(row) for row in rows) % multiple
    for _ in range(-(-(multiple - 1) // longest)):
        filler = min(spare, longest)
        rows, spare = [*rows, (0,) * filler], spare - filler
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    boundaries = torch.zeros(len(rows) + 1, dtype=torch.int32)
    torch.cumsum(lengths, 0, out=boundaries[1:])
    return PackedText(
        ids=torch.tensor([token for row in rows for token in row], dtype=torch.int64),
        positions=torch.cat([torch.arange(len(row)) for row in rows]),
        boundaries=boundaries,
        captions=captions,
        longest=longest,
    )


@cache
def _tokenizer():  # type: ignore[no-untyped-def]  # open_clip has no type stubs
    from open_clip.tokenizer import SimpleTokenizer  # late: open_clip costs seconds to import

    return SimpleTokenizer()
