"""The fine-tuning objective: any weighted set of terms over one forward pass of the encoder.

    encoder -> tokens -> features, local views, selected tokens -> one gather -> terms -> weighted sum

CFAM, its ablations and the baselines are sets of weights (`finetune/recipes/methods.yaml`), so a comparison differs in
nothing else. Heads are made only for the terms that count.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from finetune.cfam import (
    GranularityDecoder,
    HardNegatives,
    IdentityClassifier,
    Matcher,
    cross_identity_loss,
    identity_loss,
    local_view,
    match_loss,
)
from finetune.config import FinetuneSettings
from finetune.irra import MaskedWordHead, masked_word_loss
from finetune.rde import PooledAttention, TokenSelection, triplet_alignment
from pretrain.batch import Batch
from pretrain.losses import GlobalBatch, gather_batches, itc, sdm, weigh
from pretrain.model import DualEncoder, pool
from pretrain.objective import Losses, Objective
from pretrain.text import PackedText, join


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The encoder's embeddings of one batch: image [b, N, E] (CLS first), words [T, E] of the packed `text`.

    masked: [T, E] of the masked captions, if the loss asks for them (else [0, E]). attention: what the pooled tokens
    attend to, if it does.
    """

    image: Tensor
    words: Tensor
    text: PackedText
    masked: Tensor
    attention: PooledAttention | None


class FinetuneObjective(Objective):
    """The dual encoder with the heads of the terms that `settings.loss` weighs."""

    def __init__(self, encoder: DualEncoder, settings: FinetuneSettings, identities: int) -> None:
        super().__init__(encoder)
        self.settings = settings
        self.context_length = settings.model.text_cfg.context_length
        self.weights = settings.loss.weights
        width, wanted = settings.model.embed_dim, set(self.weights)
        self.heads = nn.ModuleDict()
        if settings.loss.trains_decoder:
            self.heads["decoder"] = GranularityDecoder(width, settings.heads)
        if "match" in wanted:
            self.heads["matcher"] = Matcher(settings.heads)
        if wanted & {"id", "cid"}:
            self.heads["classifier"] = IdentityClassifier(width, identities)
        if "mlm" in wanted:
            self.heads["mlm"] = MaskedWordHead(width, settings.model.text_cfg.vocab_size, settings.heads)
        if "token_tal" in wanted:
            self.heads["selection"] = TokenSelection(width, settings.heads.token_share)

    def losses(self, images: Tensor, text: PackedText, batch: Batch) -> Losses:
        """The weighted sum of the terms, these by name, and `scale` (1 / temperature)."""
        tokens, scale = self._encode(images, text, batch)
        views = gather_batches(self._views(tokens), batch.identity)
        terms = {**self._alignment(views, scale), **self._hard_negative_terms(tokens, views, batch)}
        if "mlm" in self.weights:
            terms["mlm"] = self._masked_words(tokens, batch)
        loss, parts = weigh({name: terms[name] for name in self.weights}, self.weights)
        return loss, {"scale": scale.detach()[0], **parts}

    def _encode(self, images: Tensor, text: PackedText, batch: Batch) -> tuple[Tokens, Tensor]:
        """One pass of the encoder, which reads the masked captions after the others; and 1 / temperature [1]."""
        attention = PooledAttention() if "selection" in self.heads else None
        read, length = text, len(text.ids)
        if "mlm" in self.weights:
            assert batch.masked is not None
            read = join(text, replace(text, ids=batch.masked.ids))
        image, words, scale = self.encoder(images, read, True, attention)
        tokens = Tokens(image=image, words=words[:length], text=text, masked=words[length:], attention=attention)
        return tokens, scale

    def _views(self, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        """Unit vectors of each pair, image and text [b, D], by the name of the view."""
        views = {"global": pool(tokens.image, tokens.words, tokens.text)}
        if "decoder" in self.heads:
            decoder = self.heads["decoder"]
            image, words = decoder(tokens.image), decoder(tokens.words, tokens.text, self.context_length)
            views["local"] = (local_view(image), local_view(words))
        if tokens.attention is not None:
            views["selected"] = self.heads["selection"](tokens.image, tokens.words, tokens.text, tokens.attention)
        return views

    def _alignment(self, views: dict[str, GlobalBatch], scale: Tensor) -> dict[str, Tensor]:
        """The terms that compare every image with every caption."""
        loss = self.settings.loss
        sharpness = scale if loss.sdm_temperature is None else 1 / loss.sdm_temperature
        terms = {}
        if "itc" in self.weights:
            terms["itc"] = itc(views["global"], scale)
        if "sdm" in self.weights:
            terms["sdm"] = sdm(views["global"], sharpness)
        if "local" in self.weights:
            terms["local"] = sdm(views["local"], sharpness)
        for name, view in (("tal", "global"), ("token_tal", "selected")):
            if name in self.weights:
                terms[name] = triplet_alignment(views[view], loss.tal_margin, loss.tal_temperature)
        return terms

    def _hard_negative_terms(self, tokens: Tokens, views: dict[str, GlobalBatch], batch: Batch) -> dict[str, Tensor]:
        """The terms of identities and of pairs that are hard to tell from matching ones."""
        terms = {}
        if {"match", "cid"} & set(self.weights):
            hard = HardNegatives(views[self.settings.loss.hardness if "decoder" in self.heads else "global"])
        if "match" in self.weights:
            matcher = self.heads["matcher"]
            assert isinstance(matcher, Matcher)
            terms["match"] = match_loss(matcher, views["local"], hard)
        if "classifier" in self.heads:
            classifier = self.heads["classifier"]
            image, words = classifier(torch.cat([tokens.image[:, 0], tokens.words[tokens.text.ends]])).chunk(2)
            if "id" in self.weights:
                terms["id"] = identity_loss(image, words, batch.identity)
            if "cid" in self.weights:
                terms["cid"] = cross_identity_loss(image, words, batch.identity, hard)
        return terms

    def _masked_words(self, tokens: Tokens, batch: Batch) -> Tensor:
        """The term of the words that the masked captions lack."""
        assert batch.masked is not None
        places, labels = batch.masked.places, batch.masked.labels
        logits = self.heads["mlm"](tokens.masked, tokens.text, tokens.image, places, self.context_length)
        return masked_word_loss(logits, labels)
