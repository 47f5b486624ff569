"""Every door to attention equals attention written out for one caption and one query token at a time."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pretrain import attention
from pretrain.attention import (
    attend_image,
    attend_text,
    attend_text_to_image,
    attend_to_image,
    attend_to_text,
    describe,
    plain_attention,
)
from pretrain.text import PackedText, pack

HEADS, WIDTH, QUERIES, CONTEXT, IMAGE_TOKENS = 2, 8, 3, 77, 5
RAGGED = [[3, 1, 40, 7], [1], [1, 1, 1], [64, 33, 1, 32, 65, 2]]  # buckets are 32 wide: both sides of their borders
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]

on_every_device = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
in_every_precision = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["fp64", "fp32", "bf16"])
ragged = pytest.mark.parametrize("lengths", RAGGED, ids=str)


def captions(lengths: list[int], device: str = "cpu") -> PackedText:
    return pack([bytes(2 * length) for length in lengths]).to(torch.device(device))


def draw(*shape: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, HEADS, WIDTH, dtype=torch.float64).to(device, dtype).requires_grad_()


def written_out(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """One query token after another over the keys it may see. [M, H, D], [L, H, D] twice -> [M, H * D]."""
    rows = []
    for i, row in enumerate(query):
        seen = i + 1 if causal else len(key)
        scores = (row * key[:seen]).sum(dim=2).exp() ** (1 / math.sqrt(row.shape[1]))  # [L, H]
        rows.append(((scores / scores.sum(dim=0))[..., None] * value[:seen]).sum(dim=0).flatten())
    return torch.stack(rows)


def spans(text: PackedText) -> list[slice]:
    bounds = text.boundaries.tolist()
    return [slice(start, end) for start, end in pairwise(bounds)]


def assert_twins(ours: Tensor, expected: Tensor, inputs: list[Tensor], tolerance: float) -> None:
    """Values and the gradients of one random projection agree; `expected` is in float64."""
    assert ours.dtype == inputs[0].dtype
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < tolerance
    probe = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, probe)
    for mine, other in zip(torch.autograd.grad(ours, inputs, probe.to(ours.dtype)), wanted, strict=True):
        assert (mine - other).abs().max() < tolerance * max(1.0, float(other.abs().max()))


@on_every_device
@in_every_precision
@ragged
@pytest.mark.parametrize("causal", [True, False])
def test_a_caption_attends_to_itself_as_if_it_were_alone(lengths, causal, dtype, tolerance, device):
    text = captions(lengths, device)
    qkv = draw(sum(lengths), 3, dtype=dtype, device=device)
    exact = qkv.double()
    expected = torch.cat([written_out(*exact[span].unbind(1), causal=causal) for span in spans(text)])
    assert_twins(attend_text(qkv, text, CONTEXT, causal=causal), expected, [qkv], tolerance)


@on_every_device
@in_every_precision
def test_queries_read_the_tokens_of_their_image(dtype, tolerance, device):
    query = draw(2, QUERIES, dtype=dtype, device=device)
    kv = draw(2, IMAGE_TOKENS, 2, dtype=dtype, device=device)
    pairs = zip(query.double(), kv.double(), strict=True)
    expected = torch.stack([written_out(one, *tokens.unbind(1)) for one, tokens in pairs])
    assert_twins(attend_to_image(query, kv), expected, [query, kv], tolerance)


@on_every_device
@in_every_precision
@ragged
def test_queries_read_the_tokens_of_their_caption_and_no_other(lengths, dtype, tolerance, device):
    text = captions(lengths, device)
    query = draw(len(lengths), QUERIES, dtype=dtype, device=device)
    kv = draw(sum(lengths), 2, dtype=dtype, device=device)
    exact = kv.double()
    pairs = zip(query.double(), spans(text), strict=True)
    expected = torch.stack([written_out(one, *exact[span].unbind(1)) for one, span in pairs])
    assert_twins(attend_to_text(query, kv, text, CONTEXT), expected, [query, kv], tolerance)


@on_every_device
@in_every_precision
@ragged
def test_the_tokens_of_a_caption_read_their_image_and_no_other(lengths, dtype, tolerance, device):
    text = captions(lengths, device)
    query = draw(sum(lengths), dtype=dtype, device=device)
    kv = draw(len(lengths), IMAGE_TOKENS, 2, dtype=dtype, device=device)
    exact = query.double()
    pairs = zip(spans(text), kv.double(), strict=True)
    expected = torch.cat([written_out(exact[span], *tokens.unbind(1)) for span, tokens in pairs])
    assert_twins(attend_text_to_image(query, kv, text, CONTEXT), expected, [query, kv], tolerance)


@on_every_device
@in_every_precision
def test_the_tokens_of_an_image_attend_to_each_other(dtype, tolerance, device):
    qkv = draw(2, IMAGE_TOKENS, 3, dtype=dtype, device=device)
    expected = torch.stack([written_out(*image.unbind(1)) for image in qkv.double()])
    assert_twins(attend_image(qkv), expected, [qkv], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS[1:])
@pytest.mark.parametrize("causal", [True, False])
def test_plain_attention_leaves_out_what_is_not_seen(causal, dtype, tolerance):
    qkv = draw(4, 3, dtype=dtype)
    query, key, value = qkv.permute(1, 2, 0, 3)[:, None]  # each [1, H, 4, D]
    seen = torch.tensor([True, True, True, False])
    ours = plain_attention(query[:, :, :3], key, value, causal=False, seen=seen)
    if causal:
        ours = plain_attention(query, key, value, causal=True)[:, :, :3]
    expected = written_out(*qkv.double()[:3].unbind(1), causal=causal)
    assert_twins(ours[0].transpose(0, 1).flatten(1), expected, [qkv], tolerance)


def packed_kernel(query, key, value, starts_q, starts_k, longest_q, longest_k, *, window_size=(-1, -1)):
    """What torch's varlen_attn computes and what it needs, without a GPU."""
    assert all(x.is_contiguous() and x.ndim == 3 for x in (query, key, value))
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert starts_q.diff().max() <= longest_q
    assert starts_k.diff().max() <= longest_k
    assert (starts_q[-1], starts_k[-1]) == (len(query), len(key))  # rows beyond would come back uninitialised
    pairs = zip(pairwise(starts_q.tolist()), pairwise(starts_k.tolist()), strict=True)
    parts = [
        written_out(query[a:b], key[c:d], value[c:d], causal=window_size == (-1, 0)).view(b - a, *query.shape[1:])
        for (a, b), (c, d) in pairs
    ]
    return torch.cat(parts)


@ragged
def test_where_there_is_a_packed_kernel_the_doors_ask_it_for_the_same(lengths, monkeypatch):
    text, dtype = captions(lengths), torch.float64
    qkv, query = draw(sum(lengths), 3, dtype=dtype), draw(len(lengths), QUERIES, dtype=dtype)
    kv = draw(len(lengths), IMAGE_TOKENS, 2, dtype=dtype)

    def through_the_doors():
        return [
            attend_text(qkv, text, CONTEXT),
            attend_text(qkv, text, CONTEXT, causal=False),
            attend_to_text(query, qkv[:, 1:], text, CONTEXT),
            attend_text_to_image(qkv[:, 0], kv, text, CONTEXT),
        ]

    without = through_the_doors()
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", packed_kernel)
    monkeypatch.setattr(attention, "_varlen_applies", lambda *_: True)
    monkeypatch.setattr(attention, "_varlen_arguments", lambda: {"window_size": (-1, 0)})
    torch.testing.assert_close(through_the_doors(), without, rtol=0, atol=1e-12)


def test_the_start_line_names_the_attention_path():
    assert "images SDPA; text SDPA, by length inside attention only" in describe(torch.device("cpu"), torch.float32)
    assert "images plain softmax" in describe(torch.device("cpu"), torch.bfloat16)
    assert "varlen_attn" in describe(torch.device("cuda"), torch.bfloat16)
