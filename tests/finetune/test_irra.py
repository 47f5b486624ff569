"""The masked-word term against one word at a time, and over ranks."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from finetune.config import HeadSettings
from finetune.irra import MaskedWordHead, masked_word_loss
from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.model import DualEncoder
from pretrain.text import join, pack
from tests.pretrain.ranks import run_on_ranks

EMBED, HEADS, VOCABULARY, PATCHES, LONGEST = 8, 2, 13, 5, 40
LENGTHS = (6, 3, 2, 37)  # more than one bucket of lengths
MASKED = ((1, 4), (), (), (7, 2, 30))  # places within each caption: of two ranks one has two, the other three


def captions(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, VOCABULARY, (length,), generator=draw) for length in lengths]
    return pack([row.numpy().astype("<u2").tobytes() for row in rows])


def make_head():
    torch.manual_seed(0)
    return MaskedWordHead(EMBED, VOCABULARY, HeadSettings(mlm_layers=2, mlm_heads=HEADS)).double()


def embeddings(seed=1):
    """Words of the captions, image tokens and labels."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randn(sum(LENGTHS), EMBED, generator=draw, dtype=torch.float64)
    image = torch.randn(len(LENGTHS), PATCHES, EMBED, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, VOCABULARY, (sum(map(len, MASKED)),), generator=draw)
    return words.requires_grad_(), image.requires_grad_(), labels


def places_of(captions_of_rank):
    """Where the masked words of some captions stand when those are laid end to end."""
    starts = torch.tensor([0, *(LENGTHS[c] for c in captions_of_rank)]).cumsum(0)
    places = [int(start) + place for start, c in zip(starts, captions_of_rank, strict=False) for place in MASKED[c]]
    return torch.tensor(places, dtype=torch.int64)


def attention(query, key, value):
    """Of one sequence, head by head: [L, E] over [N, E]."""
    out = []
    for q, k, v in zip(*(x.chunk(HEADS, dim=1) for x in (query, key, value)), strict=True):
        out.append((q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1) @ v)
    return torch.cat(out, dim=1)


def plain_loss(head, words, image, labels):
    """The same formulas, one caption and one masked word at a time."""
    losses, first = [], 0
    for number, length in enumerate(LENGTHS):
        tokens = head.ln_pre_i(image[number])
        key, value = head.cross.key_value(tokens).chunk(2, dim=1)
        x = attention(head.cross.query(head.ln_pre_t(words[first : first + length])), key, value)
        x = head.cross.out_proj(x)
        for block in head.transformer.resblocks:
            qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
            x = x + block.attn.out_proj(attention(*qkv.chunk(3, dim=1)))
            x = x + block.mlp(block.ln_2(x))
        for place in MASKED[number]:
            logits = head.vocabulary(head.ln_dense(F.gelu(head.dense(head.ln_post(x[place])))))
            losses.append(logits.logsumexp(0) - logits[labels[len(losses)]])
        first += length
    return torch.stack(losses).mean()


def gradients(loss, head, *inputs):
    return torch.autograd.grad(loss, [*head.parameters(), *inputs])


def test_the_term_equals_one_word_at_a_time_in_value_and_gradients():
    head, (words, image, labels) = make_head(), embeddings()
    logits = head(words, captions(LENGTHS), image, places_of(range(4)), LONGEST)
    loss, plain = masked_word_loss(logits, labels), plain_loss(head, words, image, labels)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-12)
    both = zip(gradients(loss, head, words, image), gradients(plain, head, words, image), strict=True)
    for ours, theirs in both:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def loss_and_gradients(order=(0, 1, 2, 3)):
    """Averaged over ranks, for this rank's part of the captions in `order`."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = order[rank * 4 // world_size : (rank + 1) * 4 // world_size]
    head, (words, image, labels) = make_head(), embeddings()
    label_parts, word_parts = labels.split([len(m) for m in MASKED]), words.split(LENGTHS)
    logits = head(
        torch.cat([word_parts[c] for c in mine]),
        captions([LENGTHS[c] for c in mine]),
        image[list(mine)],
        places_of(mine),
        LONGEST,
    )
    loss = masked_word_loss(logits, torch.cat([label_parts[c] for c in mine]))
    loss.backward()
    values = {"loss": loss.detach(), **{name: p.grad for name, p in head.named_parameters()}}
    for value in values.values():
        if world_size > 1:
            dist.all_reduce(value)
            value /= world_size
    return values


def on_two_ranks():
    # In the second order, one rank has all masked words.
    return [loss_and_gradients(), loss_and_gradients((1, 2, 0, 3))]


def test_two_ranks_of_half_the_batch_give_the_loss_and_gradients_of_one_rank_of_all():
    whole = loss_and_gradients()
    for result in run_on_ranks(on_two_ranks, 2):
        torch.testing.assert_close(result, [whole, whole], rtol=0, atol=1e-12)


def test_a_batch_without_masked_words_costs_nothing():
    head, (words, image, _) = make_head(), embeddings()
    nothing = torch.empty(0, dtype=torch.int64)
    loss = masked_word_loss(head(words, captions(LENGTHS), image, nothing, LONGEST), nothing)
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients(loss, head, words, image))


def test_a_fresh_head_guesses():
    head, (words, image, labels) = make_head(), embeddings()
    logits = head(words, captions(LENGTHS), image, places_of(range(4)), LONGEST)
    assert masked_word_loss(logits, labels).item() == pytest.approx(math.log(VOCABULARY), rel=0.2)


def test_a_word_reads_the_image_of_its_own_caption_and_the_words_on_both_sides():
    head, (words, image, _) = make_head(), embeddings()
    place = torch.tensor([2])  # in the first caption, of 6 tokens
    logits = head(words, captions(LENGTHS), image, place, LONGEST)
    to_words, to_image = torch.autograd.grad(logits.square().sum(), [words, image])
    assert to_words.any(dim=1).tolist() == [True] * 6 + [False] * (sum(LENGTHS) - 6)
    assert to_image.flatten(1).any(dim=1).tolist() == [True, False, False, False]


def test_texts_joined_are_encoded_as_apart():
    torch.manual_seed(0)
    text_cfg = TextSettings(vocab_size=VOCABULARY, context_length=LONGEST, width=8, heads=2, layers=2)
    vision_cfg = VisionSettings(image_size=(8, 8), patch_size=8, width=8, head_width=4, layers=1)
    model = DualEncoder(ModelSettings(embed_dim=EMBED, text_cfg=text_cfg, vision_cfg=vision_cfg))
    first, other = captions(LENGTHS), captions((5, 4), seed=2)
    masked = replace(first, ids=first.ids.roll(1))
    for second in (masked, other):
        _, together, _ = model(None, join(first, second), True)
        apart = [model(None, text, True)[1] for text in (first, second)]
        torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-6)
