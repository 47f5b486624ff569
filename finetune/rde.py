"""RDE's terms (Qin et al. 2024, CVPR): triplet alignment (TAL) on global features and on selected tokens (TSE).

    last block of each tower -> attention of the pooled token -> its top tokens -> embedding, max-pooled -> TAL

The division of the training pairs into clean and noisy ones (CCD), which RDE adds for wrongly paired data, is left out:
every pair counts as clean, so that the method differs from the others in its terms alone.

Shapes: b pairs on this rank, B in the global batch or captions in a packed text, N image tokens, T packed text tokens,
S selected tokens, H heads, D head width, E embed_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.losses import GlobalBatch, at_least_fp32
from pretrain.text import PackedText


def triplet_alignment(batch: GlobalBatch, margin: float, temperature: float) -> Tensor:
    """TAL (Qin et al. 2024), image→text plus text→image, a scalar: the mean over this rank's rows.

    Per row i: [m − Σ_j a_ij s_ij + τ log Σ_neg exp(s_ij / τ)]₊, a the softmax of s / τ over the columns of the same
    identity, without gradient; all other columns are negatives. A row without a negative has nothing to violate the
    margin and costs 0. The public code sums over rows, which would tie the weight of the term to the batch size.
    """
    same = batch.identity[:, None] == batch.all_identity[None, :]
    directions = ((batch.image, batch.all_text), (batch.text, batch.all_image))
    return torch.stack([_hinge(rows, columns, same, margin, temperature) for rows, columns in directions]).sum()


def _hinge(rows: Tensor, columns: Tensor, same: Tensor, margin: float, temperature: float) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):  # which would multiply in half precision
        similarity = rows @ columns.T
        scaled = similarity / temperature
        share = scaled.detach().masked_fill(~same, -torch.inf).softmax(dim=1)
        positive = (share * similarity).sum(dim=1)
        # -inf without a negative, which the hinge turns into 0 and masked_fill into no gradient.
        negative = temperature * scaled.masked_fill(same, -torch.inf).logsumexp(dim=1)
        return (margin - positive + negative).clamp(min=0).mean()


class PooledAttention:
    """What the pooled tokens attend to: given to the encoder as `look`, it holds the weights once that has run.

    image: fp32 [b, N], the CLS token's attention to every image token; words: fp32 [T], to each word that of its
    caption's end token. Both of the last block, averaged over heads, without gradient; they sum to 1.
    """

    image: Tensor
    words: Tensor

    @torch.no_grad()
    def __call__(self, text: PackedText | None, qkv: Tensor) -> None:
        with torch.autocast(qkv.device.type, enabled=False):
            if text is None:
                self.image = _image_attention(qkv)
            else:
                self.words = _word_attention(qkv, text)


def _image_attention(qkv_BN3HD: Tensor) -> Tensor:
    query, key = qkv_BN3HD[:, 0, 0].float(), qkv_BN3HD[:, :, 1].float()
    scores_BHN = torch.einsum("bhd,bnhd->bhn", query, key) * query.shape[-1] ** -0.5
    return scores_BHN.softmax(dim=-1).mean(dim=1)


def _word_attention(qkv_T3HD: Tensor, text: PackedText) -> Tensor:
    query, key = qkv_T3HD[text.ends, 0].float(), qkv_T3HD[:, 1].float()
    caption, lengths = _caption_of_tokens(text), text.boundaries.diff().long()
    scores_TH = (query[caption] * key).sum(dim=-1) * query.shape[-1] ** -0.5
    weights_TH = (scores_TH - torch.segment_reduce(scores_TH, "max", lengths=lengths)[caption]).exp()
    return (weights_TH / torch.segment_reduce(weights_TH, "sum", lengths=lengths)[caption]).mean(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Tokens chosen from a batch: rows int64 [S] of its tokens laid end to end, counts int64 [b] of each sample."""

    rows: Tensor
    counts: Tensor


def select_patches(attention_BN: Tensor, share: float) -> Selected:
    """The `share` of the patches (rounded, at least one) with most attention; the CLS token is not among them."""
    batch, tokens = attention_BN.shape
    count = max(1, round(share * (tokens - 1)))
    best = attention_BN[:, 1:].topk(count, dim=1).indices + 1
    first = tokens * torch.arange(batch, device=best.device)
    return Selected(rows=(first[:, None] + best).flatten(), counts=torch.full_like(first, count))


def select_words(attention_T: Tensor, text: PackedText, share: float) -> Selected:
    """The `share` of each caption's own words (rounded, at least one) with most attention, caption by caption.

    Start and end token are no words; only a caption without any is left with its end token.
    """
    starts, lengths = text.boundaries[:-1].long(), text.boundaries.diff().long()
    counts = (share * (lengths - 2).double()).round().long().clamp(min=1)
    ranked = attention_T.clone()
    ranked[starts], ranked[text.ends] = -2.0, -1.0  # behind every word
    caption = _caption_of_tokens(text)
    order = ranked.argsort(descending=True)
    order = order[caption[order].argsort(stable=True)]  # by caption, and within it by attention
    place = torch.arange(len(order), device=order.device) - starts[caption]
    return Selected(rows=order[place < counts[caption]], counts=counts)


def _caption_of_tokens(text: PackedText) -> Tensor:
    """int64 [T]: the caption that each token belongs to."""
    captions = torch.arange(len(text.boundaries) - 1, device=text.boundaries.device)
    return captions.repeat_interleave(text.boundaries.diff(), output_size=len(text.ids))


class TokenEmbedding(nn.Module):
    """Selected tokens to one unit vector a sample: linear plus MLP of each normalised token, and their maximum.

    RDE normalises the MLP's hidden layer over the batch. Here it is a LayerNorm: batch statistics would make two ranks
    differ from one rank with twice the batch. The output is as wide as the embedding, where RDE widens 512 to 1024.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        hidden = embed_dim // 2
        self.linear = nn.Linear(embed_dim, embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, embed_dim)
        )

    def forward(self, tokens: Tensor, selected: Selected) -> Tensor:
        """[b, E], at least fp32, of embedded tokens [.., E] as the encoder gives them, laid end to end or by sample."""
        x_SE = F.normalize(at_least_fp32(tokens.flatten(0, -2)[selected.rows]), dim=-1)
        x_SE = at_least_fp32(self.linear(x_SE) + self.mlp(x_SE))
        return F.normalize(torch.segment_reduce(x_SE, "max", lengths=selected.counts), dim=-1)


class TokenSelection(nn.Module):
    """TSE (Qin et al. 2024): features of the tokens that the pooled token attends to most, for both modalities."""

    def __init__(self, embed_dim: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.image = TokenEmbedding(embed_dim)
        self.words = TokenEmbedding(embed_dim)

    def forward(
        self, image_BNE: Tensor, words_TE: Tensor, text: PackedText, attention: PooledAttention
    ) -> tuple[Tensor, Tensor]:
        """Unit vectors [b, E] of images and captions; `attention` may be to a text that goes on after `text`."""
        words = select_words(attention.words[: len(text.ids)], text, self.share)
        return self.image(image_BNE, select_patches(attention.image, self.share)), self.words(words_TE, words)
