"""RDE's terms against plain loops, and over ranks."""

import math
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from finetune.rde import PooledAttention, TokenSelection, select_patches, select_words, triplet_alignment
from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.losses import gather_batch
from pretrain.model import DualEncoder
from pretrain.text import join, pack
from tests.pretrain.ranks import run_on_ranks

PAIRS, EMBED, PATCHES, HEADS = 8, 6, 9, 2
IDENTITIES = [3, 7, 3, 5, 7, 3, 9, 5]  # 3, 5 and 7 lie on both of two ranks; 3 twice on the first
LENGTHS = (2, 3, 4, 12, 7, 40, 5, 9)
MARGIN, TEMPERATURE, SHARE = 0.1, 0.2, 0.3


def captions(lengths):
    rows = [torch.arange(length) % 13 for length in lengths]
    return pack([row.numpy().astype("<u2").tobytes() for row in rows])


def features(seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, PAIRS, EMBED, generator=draw, dtype=torch.float64)
    return (F.normalize(x, dim=1).to(dtype).requires_grad_() for x in (image, text))


def plain_alignment(image, text, identity, margin, temperature):
    """RDE's formula, one pair at a time."""
    total = 0.0
    for rows, columns in ((image, text), (text, image)):
        for i, person in enumerate(identity):
            same = [j for j, other in enumerate(identity) if other == person]
            others = [j for j, other in enumerate(identity) if other != person]
            shares = [math.exp((rows[i] @ columns[j]).item() / temperature) for j in same]
            positive = sum(a / sum(shares) * (rows[i] @ columns[j]) for a, j in zip(shares, same, strict=True))
            if others:
                negative = temperature * sum(((rows[i] @ columns[j]) / temperature).exp() for j in others).log()
                total = total + max(margin - positive + negative, torch.zeros(())) / len(identity)
    return total


@pytest.mark.parametrize("identities", [IDENTITIES, list(range(PAIRS)), [4, 4, 4, 4, 4, 4, 4, 2]])
@pytest.mark.parametrize("temperature", [0.015, TEMPERATURE])
def test_alignment_equals_the_formula_written_as_a_loop_in_value_and_gradients(identities, temperature):
    image, text = features(0)
    loss = triplet_alignment(gather_batch(image, text, torch.tensor(identities)), MARGIN, temperature)
    plain = plain_alignment(image, text, identities, MARGIN, temperature)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(x, [image, text]) for x in (loss, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert ours[0].any()


def test_a_batch_of_one_person_costs_nothing():
    image, text = features(1)
    loss = triplet_alignment(gather_batch(image, text, torch.zeros(PAIRS, dtype=torch.int64)), MARGIN, TEMPERATURE)
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, [image, text]))


def test_people_apart_by_the_margin_cost_nothing_and_mixed_ones_do():
    identity, people = torch.arange(4), torch.eye(4)
    assert triplet_alignment(gather_batch(people, people, identity), 0.5, 0.015) == 0
    mixed = triplet_alignment(gather_batch(people, people.roll(1, dims=0), identity), 0.5, 0.015)
    assert mixed.item() == pytest.approx(2 * 1.5, abs=1e-4)


def test_similarities_are_scored_in_fp32_even_under_autocast_and_at_a_tiny_temperature():
    image, text = features(2, torch.bfloat16)
    identity = torch.tensor(IDENTITIES)
    exact = triplet_alignment(gather_batch(image.double(), text.double(), identity), MARGIN, 1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = triplet_alignment(gather_batch(image, text, identity), MARGIN, 1e-3)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("joined", [False, True])
def test_the_attention_is_that_of_the_last_block_s_pooled_tokens(joined):
    torch.manual_seed(0)
    text_cfg = TextSettings(vocab_size=13, context_length=max(LENGTHS), width=8, heads=HEADS, layers=2)
    vision_cfg = VisionSettings(image_size=(24, 24), patch_size=8, width=8, head_width=4, layers=2)
    model = DualEncoder(ModelSettings(embed_dim=EMBED, text_cfg=text_cfg, vision_cfg=vision_cfg))
    seen = []
    for tower in (model.visual.transformer, model.transformer):
        tower.resblocks[-1].ln_1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    text, attention, images = captions(LENGTHS), PooledAttention(), torch.randn(3, 3, 24, 24)
    text = join(text, text) if joined else text
    looked = model(images, text, True, attention)
    assert all(torch.equal(a, b) for a, b in zip(looked, model(images, text, True), strict=True))
    ends = text.boundaries.tolist()
    sequences = [(x, model.visual.transformer, 0) for x in seen[0]]
    sequences += [(seen[1][a:b], model.transformer, -1) for a, b in pairwise(ends)]
    rows = [plain_row(tower.resblocks[-1].attn, x, pooled) for x, tower, pooled in sequences]
    torch.testing.assert_close(attention.image, torch.stack(rows[:3]), rtol=0, atol=1e-6)
    torch.testing.assert_close(attention.words, torch.cat(rows[3:]), rtol=0, atol=1e-6)
    assert not attention.image.requires_grad
    assert not attention.words.requires_grad


def plain_row(attn, x, pooled):
    """What token `pooled` of one sequence [L, C] attends to, head by head: [L]."""
    query, key, _ = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=1)
    heads = zip(query[pooled].chunk(HEADS), key.chunk(HEADS, dim=1), strict=True)
    return torch.stack([(k @ q / math.sqrt(len(q))).softmax(0) for q, k in heads]).mean(0).detach()


@settings(max_examples=60)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=6), st.floats(0.01, 1), st.integers(0, 1000), st.booleans())
def test_words_are_the_most_attended_of_their_caption(lengths, share, seed, tied):
    text = captions(lengths)
    attention = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed))
    attention = (attention * 4).round() / 4 if tied else attention
    selected = select_words(attention, text, share)
    parts = zip(attention.split(lengths), selected.rows.split(selected.counts.tolist()), lengths, strict=True)
    first = 0
    for weights, rows, length in parts:
        places = (rows - first).tolist()
        first += length
        if length == 2:
            assert places == [1]
            continue
        assert len(set(places)) == max(1, round(share * (length - 2)))
        assert 0 < min(places) <= max(places) < length - 1
        kept = sorted((float(weights[place]) for place in places), reverse=True)
        assert kept == sorted(weights[1:-1].tolist(), reverse=True)[: len(places)]


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 12), st.floats(0.01, 1), st.integers(0, 1000))
def test_patches_are_the_most_attended_of_their_image(batch, patches, share, seed):
    attention = torch.rand(batch, 1 + patches, generator=torch.Generator().manual_seed(seed))
    selected = select_patches(attention, share)
    count = max(1, round(share * patches))
    assert selected.counts.tolist() == [count] * batch
    for number, rows in enumerate(selected.rows.split(selected.counts.tolist())):
        ranked = sorted(range(1, 1 + patches), key=lambda place: -float(attention[number, place]))
        assert sorted(rows.tolist()) == sorted(number * (1 + patches) + place for place in ranked[:count])


def selection_inputs():
    """A head, tokens of images and words, and what attends to them."""
    torch.manual_seed(0)
    head = TokenSelection(EMBED, SHARE).double()
    draw = torch.Generator().manual_seed(3)
    image = torch.randn(PAIRS, 1 + PATCHES, EMBED, generator=draw, dtype=torch.float64)
    words = torch.randn(sum(LENGTHS), EMBED, generator=draw, dtype=torch.float64)
    attention = PooledAttention()
    attention.image = torch.rand(PAIRS, 1 + PATCHES, generator=draw)
    attention.words = torch.rand(sum(LENGTHS), generator=draw)
    return head, image.requires_grad_(), words.requires_grad_(), attention


def plain_view(embedding, samples, attentions, inner):
    """Features of samples [L, E], token by token; `inner` is what may be selected."""
    out = []
    for tokens, attention in zip(samples, attentions, strict=True):
        candidates = list(range(len(tokens)))[inner]
        candidates.sort(key=lambda place: -float(attention[place]))
        chosen = candidates[: max(1, round(SHARE * len(candidates)))] or [len(tokens) - 1]
        unit = [tokens[place] / tokens[place].norm() for place in chosen]
        embedded = torch.stack([embedding.linear(x) + embedding.mlp(x) for x in unit])
        most = torch.stack([column[int(column.argmax())] for column in embedded.unbind(1)])
        out.append(most / most.norm())
    return torch.stack(out)


def test_selected_features_equal_a_loop_over_tokens_in_value_and_gradients():
    head, image, words, attention = selection_inputs()
    ours = head(image, words, captions(LENGTHS), attention)
    plain = (
        plain_view(head.image, image, attention.image, slice(1, None)),
        plain_view(head.words, words.split(LENGTHS), attention.words.split(LENGTHS), slice(1, -1)),
    )
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    weights = torch.randn(2, PAIRS, EMBED, dtype=torch.float64)
    to = [*head.parameters(), image, words]
    one, other = (torch.autograd.grad((torch.stack(list(x)) * weights).sum(), to) for x in (ours, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def loss_and_gradients():
    """Both terms and their gradients, averaged over ranks, of this rank's part of the pairs."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = slice(rank * PAIRS // world_size, (rank + 1) * PAIRS // world_size)
    head, image, words, attention = selection_inputs()
    lengths = LENGTHS[mine]
    attention.image = attention.image[mine]
    attention.words = torch.cat(attention.words.split(LENGTHS)[mine])
    image_part, words_part = image[mine], torch.cat(words.split(LENGTHS)[mine])
    text, identity = captions(lengths), torch.tensor(IDENTITIES)[mine]
    selected = head(image_part, words_part, text, attention)
    pooled = (F.normalize(x, dim=1) for x in (image_part[:, 0], words_part[text.ends]))
    token_tal, tal = (triplet_alignment(gather_batch(*view, identity), MARGIN, 0.05) for view in (selected, pooled))
    (token_tal + tal).backward()
    values = {"token_tal": token_tal.detach(), "tal": tal.detach(), "image": image.grad, "words": words.grad}
    values |= {name: parameter.grad for name, parameter in head.named_parameters()}
    for value in values.values():
        if world_size > 1:
            dist.all_reduce(value)
            value /= world_size
    return values


def test_two_ranks_of_half_the_batch_give_the_losses_and_gradients_of_one_rank_of_all():
    whole = loss_and_gradients()
    for result in run_on_ranks(loss_and_gradients, 2):
        torch.testing.assert_close(result, whole, rtol=0, atol=1e-12)
