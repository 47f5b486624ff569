"""CFAM's heads (UFineBench, Zuo et al. 2024, §4): granularity decoder, matcher and the choice of hard negatives.

    tokens of either modality -> the same decoder -> K granularity representations -> local similarity (Eq. 4)
    pairs and hard negatives  -> matcher -> matched or not (Eq. 5)

The paper's code is not public; what it leaves open is decided here and said where it is done. Heads train beside the
encoder and are dropped at inference.

Shapes: b pairs on this rank, B in the global batch, P pairs to be judged, N image tokens, T packed text tokens,
K queries, E embed_dim, C width of the heads.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.config import HeadSettings
from pretrain.attention import attend_image, attend_to_image, attend_to_text
from pretrain.losses import GlobalBatch, gather_plain
from pretrain.model import Transformer, reset_blocks
from pretrain.text import PackedText

CLASSIFIER_STD = 0.001  # IRRA's


class CrossAttention(nn.Module):
    """Projections of multi-head attention from queries [B, K, C] to keys and values of other tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        query = self.query(x).unflatten(-1, (self.heads, -1))
        return self.out_proj(attend(query, self.key_value(tokens).unflatten(-1, (2, self.heads, -1))))


class GranularityDecoder(nn.Module):
    """D_g of Eq. 3: K learned queries read the tokens of an image or a caption, with the same weights for both.

    Per layer cross-attention, then self-attention and MLP: the queries have something to tell each other only once they
    have read. Tokens come as the encoder embeds them, [.., E], and are projected where E differs from the width.
    """

    def __init__(self, embed_dim: int, settings: HeadSettings) -> None:
        super().__init__()
        width = settings.width
        self.proj = nn.Identity() if embed_dim == width else nn.Linear(embed_dim, width)
        self.ln_tokens = nn.LayerNorm(width)
        self.query_embedding = nn.Parameter(width**-0.5 * torch.randn(settings.queries, width))
        self.ln_cross = nn.ModuleList(nn.LayerNorm(width) for _ in range(settings.layers))
        self.cross = nn.ModuleList(CrossAttention(width, settings.heads) for _ in range(settings.layers))
        self.transformer = Transformer(width, settings.layers, settings.heads, quick_gelu=False)
        self.ln_post = nn.LayerNorm(width)
        reset_blocks(self.cross, width, settings.layers)

    def forward(self, tokens: Tensor, text: PackedText | None = None, context_length: int = 0) -> Tensor:
        """[B, K, C] of image tokens [B, N, E], or of packed text tokens [T, E] with their `text`."""

        def attend(query_BKHD: Tensor, kv: Tensor) -> Tensor:
            if text is None:
                return attend_to_image(query_BKHD, kv)
            return attend_to_text(query_BKHD, kv, text, context_length)

        tokens = self.ln_tokens(self.proj(tokens))
        batch = len(tokens) if text is None else len(text.boundaries) - 1
        x_BKC = self.query_embedding.expand(batch, -1, -1)
        for norm, cross, block in zip(self.ln_cross, self.cross, self.transformer.resblocks, strict=True):
            x_BKC = block(x_BKC + cross(norm(x_BKC), tokens, attend), attend_image)
        return self.ln_post(x_BKC)


def local_view(decoded_BKC: Tensor) -> Tensor:
    """Decoder outputs as one unit vector [B, K·C] whose dot product with another is Eq. 4, the mean of K cosines."""
    queries = decoded_BKC.shape[1]
    return F.normalize(decoded_BKC.float(), dim=-1).flatten(1) / math.sqrt(queries)


class Matcher(nn.Module):
    """p of Eq. 5: whether image and caption belong together, from both sides' granularity representations.

    The 2K representations enter as one sequence, with a learned vector for each side and one for each query, so that
    what one query found in either is easily compared; their mean goes to the MLP. The paper leaves this open.
    """

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        width = settings.width
        self.queries = settings.queries
        self.side_embedding = nn.Parameter(width**-0.5 * torch.randn(2, 1, width))
        self.query_embedding = nn.Parameter(width**-0.5 * torch.randn(settings.queries, width))
        self.transformer = Transformer(width, settings.layers, settings.heads, quick_gelu=False)
        self.ln_post = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits fp32 [P] of P pairs of local views [P, K·C]; the representations enter with unit mean square."""
        sides = [side.unflatten(1, (self.queries, -1)) * math.sqrt(side.shape[1]) for side in (image, text)]
        places = self.side_embedding + self.query_embedding
        x_PKC = torch.cat([x + place for x, place in zip(sides, places, strict=True)], dim=1)
        x_PC = self.ln_post(self.transformer(x_PKC, attend_image)).mean(dim=1)
        with torch.autocast(x_PC.device.type, enabled=False):  # logits of a loss are fp32
            return self.mlp(x_PC.to(self.side_embedding.dtype)).squeeze(1)


class HardNegatives:
    """For each image of this rank the most similar caption of another person in the global batch, and the reverse.

    text, image: int64 [b], the global row of the hard negative of each image and of each caption; meaningless unless
    they `exist`, which they do unless the global batch shows one person only. Same-identity pairs are never negatives.
    No gradient. All ranks must construct it.
    """

    def __init__(self, view: GlobalBatch) -> None:
        same = view.identity[:, None] == view.all_identity[None, :]
        self.text = _hardest(view.image, view.all_text, same)
        self.image = _hardest(view.text, view.all_image, same)
        # If anybody has a negative, everybody has: the batch holds two people or more.
        self.exist = bool((view.all_identity != view.all_identity[0]).any())
        self._first, self._own = view.first_row, len(view.identity)
        # How often an image, and a caption, of this rank is in one of the B + 2B pairs.
        self.image_uses = 1 + self.exist * (1 + self._chosen(self.image))
        self.text_uses = 1 + self.exist * (1 + self._chosen(self.text))
        self.pairs = self._own * (3 if self.exist else 1)  # of this rank: a third of them match

    def _chosen(self, rows: Tensor) -> Tensor:
        """How often each of this rank's rows was chosen by any rank, int64 [b]."""
        everywhere = gather_plain(rows)
        own = torch.arange(self._first, self._first + self._own, device=rows.device)
        return (everywhere[None, :] == own[:, None]).sum(dim=1)


@torch.no_grad()
def _hardest(rows: Tensor, columns: Tensor, same: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return (rows @ columns.T).masked_fill(same, -torch.inf).argmax(dim=1)


def match_loss(matcher: Matcher, view: GlobalBatch, hard: HardNegatives) -> Tensor:
    """Binary cross-entropy of the matcher over B pairs and 2B hard negatives (Eq. 5 read as ordinary BCE).

    `view` holds the local views. The mean over this rank's pairs, of which every rank has equally many.
    """
    images, texts = [view.image], [view.text]
    if hard.exist:
        images += [view.image, view.all_image[hard.image]]
        texts += [view.all_text[hard.text], view.text]
    logits = matcher(torch.cat(images), torch.cat(texts))
    matched = torch.zeros_like(logits)
    matched[: len(view.image)] = 1.0
    return F.binary_cross_entropy_with_logits(logits, matched)


def cross_identity_loss(image_logits: Tensor, text_logits: Tensor, identity: Tensor, hard: HardNegatives) -> Tensor:
    """Cross-entropy of identity over the pairs and hard negatives, each side of a pair to its own identity.

    The paper names this term and leaves its form to an unpublished supplement. Our choice: both members of each of the
    B + 2B pairs are classified by one classifier for both modalities, so people that are confused count as often as
    they are. Logits fp32 [b, identities] of global features; the mean over this rank's pairs and their two members.
    """
    image = F.cross_entropy(image_logits, identity, reduction="none") * hard.image_uses
    text = F.cross_entropy(text_logits, identity, reduction="none") * hard.text_uses
    return (image + text).sum() / (2 * hard.pairs)


def identity_loss(image_logits: Tensor, text_logits: Tensor, identity: Tensor) -> Tensor:
    """IRRA's ID loss (Jiang & Ye 2023, §3.4): the mean of both modalities' cross-entropies. Logits [b, identities]."""
    return (F.cross_entropy(image_logits, identity) + F.cross_entropy(text_logits, identity)) / 2


class IdentityClassifier(nn.Linear):
    """One linear classifier for both modalities, begun near zero as IRRA's."""

    def __init__(self, embed_dim: int, identities: int) -> None:
        super().__init__(embed_dim, identities)
        nn.init.normal_(self.weight, std=CLASSIFIER_STD)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """fp32 logits [b, identities] of features [b, E], not normalised."""
        with torch.autocast(features.device.type, enabled=False):  # logits of a loss are fp32
            return super().forward(features.to(self.weight.dtype))
