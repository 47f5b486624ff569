"""IRRA's implicit relation reasoning (IRR; Jiang & Ye 2023, CVPR): masked words predicted with the image's help.

    masked caption -> text tower -> cross-attention over the image's tokens -> blocks -> vocabulary, masked words only

IRRA's other terms, SDM and ID, are in `pretrain/losses.py` and `finetune/cfam.py`. The head trains beside the encoder
and is dropped at inference.

Shapes: B pairs on this rank, N image tokens, T packed text tokens, M masked ones, E embed_dim, V vocabulary.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.cfam import CrossAttention
from finetune.config import HeadSettings
from pretrain.attention import attend_text, attend_text_to_image
from pretrain.losses import at_least_fp32, gather_plain, number_of_ranks
from pretrain.model import Transformer, reset_blocks
from pretrain.text import PackedText


class MaskedWordHead(nn.Module):
    """Interaction encoder and vocabulary classifier; as wide as the embedding.

    As in IRRA, no residual leads around the cross-attention (a word is what it reads in the image), the norms stand
    before it, and the blocks see the caption in both directions.
    """

    def __init__(self, embed_dim: int, vocabulary: int, settings: HeadSettings) -> None:
        super().__init__()
        layers, heads = settings.mlm_layers, settings.mlm_heads
        self.ln_pre_t = nn.LayerNorm(embed_dim)
        self.ln_pre_i = nn.LayerNorm(embed_dim)
        self.cross = CrossAttention(embed_dim, heads)
        self.transformer = Transformer(embed_dim, layers, heads, quick_gelu=False)
        self.ln_post = nn.LayerNorm(embed_dim)
        self.dense = nn.Linear(embed_dim, embed_dim)
        self.ln_dense = nn.LayerNorm(embed_dim)
        self.vocabulary = nn.Linear(embed_dim, vocabulary)
        reset_blocks(self.cross, embed_dim, layers)
        for linear, std in ((self.dense, (2 * embed_dim) ** -0.5), (self.vocabulary, (2 * layers * embed_dim) ** -0.5)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(
        self, words_TE: Tensor, text: PackedText, image_BNE: Tensor, places: Tensor, context_length: int
    ) -> Tensor:
        """Logits [M, V], at least fp32, of the tokens `places` (int64 [M]) of the masked captions.

        words_TE: the text tower's embeddings of the masked captions, which lie in `text`. image_BNE: those of the image
        tokens. `context_length` bounds every caption.
        """
        over_image = partial(attend_text_to_image, text=text, context_length=context_length)
        both_ways = partial(attend_text, text=text, context_length=context_length, causal=False)
        x_TE = self.cross(self.ln_pre_t(words_TE), self.ln_pre_i(image_BNE), over_image)
        x_TE = self.transformer(x_TE, both_ways)
        x_ME = self.ln_dense(F.gelu(self.dense(self.ln_post(x_TE[places]))))
        return at_least_fp32(self.vocabulary(x_ME))


def masked_word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the masked words; the mean over ranks is the mean over all masked words of the global batch.

    Logits [M, V], labels int64 [M]; M differs from rank to rank and may be 0. A scalar, 0 where no rank has a masked
    word. All ranks must call.
    """
    count = torch.tensor([len(labels)], device=labels.device)
    per_rank = gather_plain(count).sum() / number_of_ranks()
    # Without a masked word the sum is 0; 1 / number_of_ranks() is the smallest share that is not.
    return F.cross_entropy(logits, labels, reduction="sum") / per_rank.clamp(min=1 / number_of_ranks())
