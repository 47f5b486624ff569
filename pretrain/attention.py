"""The one door to attention: the fused CUDA kernels where they apply, a plain CPU path elsewhere.

Self-attention of images and of packed captions, and cross-attention between them and from K queries to either.

Shapes: B images or captions, N tokens of an image, T tokens of a packed text batch, K queries, H heads, D head width.
"""

import inspect
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pretrain.text import PackedText

# cuDNN first: reported fastest on Hopper for short fixed shapes; flash where it declines, then two that always work.
CUDA_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
HALF = (torch.bfloat16, torch.float16)


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """Which attention a run on `device` computing in `dtype` uses; one line for the start of the log."""
    image = _cuda_name(dtype) if device.type == "cuda" else _cpu_name(dtype)
    text = "varlen_attn, packed" if _varlen_applies(device, dtype) else f"{image}, by length inside attention only"
    return f"attention on {device.type} in {str(dtype).removeprefix('torch.')}: images {image}; text {text}"


def attend_image(qkv_BN3HD: Tensor) -> Tensor:
    """Full self-attention. [B, N, 3, H, D] -> [B, N, H * D], same dtype."""
    query, key, value = qkv_BN3HD.permute(2, 0, 3, 1, 4)  # each [B, H, N, D]
    return _attend(query, key, value, causal=False).transpose(1, 2).flatten(2)


def attend_text(qkv_T3HD: Tensor, text: PackedText, context_length: int, *, causal: bool = True) -> Tensor:
    """Self-attention inside each caption of a packed batch. [T, 3, H, D] -> [T, H * D], same dtype.

    `context_length` bounds every caption; the CUDA kernel gets it instead of the batch's longest, because a changing
    maximum would make it choose anew at every step.
    """
    if _varlen_applies(qkv_T3HD.device, qkv_T3HD.dtype):
        bounds, longest = (text.boundaries, text.boundaries), (context_length, context_length)
        query, key, value = qkv_T3HD.unbind(1)
        return _varlen(query, key, value, bounds, longest, causal=causal).flatten(1)
    parts = []
    for tokens, valid in zip(text.buckets.tokens, text.buckets.valid, strict=True):
        query, key, value = _rows(qkv_T3HD, tokens).permute(2, 0, 3, 1, 4)
        # A causal query never sees its right padding: only rows that are dropped again differ from the packed result.
        seen = None if causal else valid[:, None, None]
        parts.append(_attend(query, key, value, causal=causal, seen=seen).transpose(1, 2)[valid].flatten(1))
    return torch.cat(parts).index_select(0, text.buckets.inverse)


def attend_to_image(query_BKHD: Tensor, kv_BN2HD: Tensor) -> Tensor:
    """K queries of each image over its tokens. [B, K, H, D], [B, N, 2, H, D] -> [B, K, H * D], same dtype."""
    key, value = kv_BN2HD.permute(2, 0, 3, 1, 4)
    return _attend(query_BKHD.transpose(1, 2), key, value, causal=False).transpose(1, 2).flatten(2)


def attend_to_text(query_BKHD: Tensor, kv_T2HD: Tensor, text: PackedText, context_length: int) -> Tensor:
    """K queries of each caption over its packed tokens. [B, K, H, D], [T, 2, H, D] -> [B, K, H * D], same dtype."""
    batch, queries = query_BKHD.shape[:2]
    if _varlen_applies(kv_T2HD.device, kv_T2HD.dtype):
        bounds = (_even_boundaries(batch, queries, kv_T2HD.device), text.boundaries)
        longest = (queries, context_length)
        key, value = kv_T2HD.unbind(1)
        return _varlen(query_BKHD.flatten(0, 1), key, value, bounds, longest).view(batch, queries, -1)
    parts, order = [], torch.cat(text.buckets.rows)
    for rows, tokens, valid in zip(text.buckets.rows, text.buckets.tokens, text.buckets.valid, strict=True):
        key, value = _rows(kv_T2HD, tokens).permute(2, 0, 3, 1, 4)
        query = query_BKHD.index_select(0, rows).transpose(1, 2)
        parts.append(_attend(query, key, value, causal=False, seen=valid[:, None, None]).transpose(1, 2).flatten(2))
    return torch.cat(parts).index_select(0, order.argsort())


def attend_text_to_image(query_THD: Tensor, kv_BN2HD: Tensor, text: PackedText, context_length: int) -> Tensor:
    """Every token of caption b over the tokens of image b. [T, H, D], [B, N, 2, H, D] -> [T, H * D], same dtype."""
    if _varlen_applies(query_THD.device, query_THD.dtype):
        batch, length = kv_BN2HD.shape[:2]
        bounds = (text.boundaries, _even_boundaries(batch, length, query_THD.device))
        key, value = kv_BN2HD.flatten(0, 1).unbind(1)
        return _varlen(query_THD, key, value, bounds, (context_length, length)).flatten(1)
    parts = []
    for rows, tokens, valid in zip(text.buckets.rows, text.buckets.tokens, text.buckets.valid, strict=True):
        key, value = kv_BN2HD.index_select(0, rows).permute(2, 0, 3, 1, 4)
        query = _rows(query_THD, tokens).transpose(1, 2)
        parts.append(_attend(query, key, value, causal=False).transpose(1, 2)[valid].flatten(1))
    return torch.cat(parts).index_select(0, text.buckets.inverse)


def _rows(packed_T: Tensor, tokens: Tensor) -> Tensor:
    """The rows [n, L, …] of a packed tensor [T, …] that `tokens` [n, L] names."""
    return packed_T.index_select(0, tokens.flatten()).unflatten(0, tokens.shape)


def _even_boundaries(batch: int, length: int, device: torch.device) -> Tensor:
    """The boundaries, int32 [B + 1], of `batch` sequences of equal length laid end to end."""
    return torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=device)


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, seen: Tensor | None = None) -> Tensor:
    if query.is_cuda:
        with sdpa_kernel(CUDA_ORDER, set_priority=True):
            return scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)
    if query.dtype in HALF:
        return plain_attention(query, key, value, causal=causal, seen=seen)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, seen: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V over [B, H, N, D]: the twin of every fused path.

    `seen` is False (bool, broadcast to the scores [B, H, N, N]) at keys that are not there.
    Also the CPU's path in bf16, where SDPA's backward is slow: 1.5 to 1.9 times faster than it (measured).
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(ahead, float("-inf"))
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return scores.float().softmax(-1).to(value.dtype) @ value


def _cuda_name(dtype: torch.dtype) -> str:
    return "SDPA (cuDNN, else flash)" if dtype in HALF else "SDPA (memory-efficient)"


def _cpu_name(dtype: torch.dtype) -> str:
    return "plain softmax" if dtype in HALF else "SDPA"


def _varlen_applies(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in HALF and _varlen_arguments() is not None


@cache
def _varlen_arguments() -> dict[str, Any] | None:
    """How this torch asks varlen_attn for causality (`is_causal` before 2.11); None if it has no varlen_attn."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters
    return {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    *,
    causal: bool = False,
) -> Tensor:
    """varlen_attn over packed [T, H, D]; `boundaries` and `longest` of queries and of keys."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    asked = (_varlen_arguments() or {}) if causal else {}
    return cast(Tensor, varlen_attn(query, key, value, *boundaries, *longest, **asked))
