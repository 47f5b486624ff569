"""The one door to attention: the fused CUDA kernels where they apply, a plain CPU path elsewhere.

Shapes: B images, N tokens of an image, T tokens of a packed text batch, H heads, D head width.
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


def attend_text(qkv_T3HD: Tensor, text: PackedText, context_length: int) -> Tensor:
    """Causal self-attention inside each caption of a packed batch. [T, 3, H, D] -> [T, H * D], same dtype.

    `context_length` bounds every caption; the CUDA kernel gets it instead of the batch's longest, because a changing
    maximum would make it choose anew at every step.
    """
    if _varlen_applies(qkv_T3HD.device, qkv_T3HD.dtype):
        return _varlen(qkv_T3HD, text.boundaries, context_length).flatten(1)
    parts = []
    for tokens, valid in zip(text.buckets.tokens, text.buckets.valid, strict=True):
        padded = qkv_T3HD.index_select(0, tokens.flatten()).unflatten(0, tokens.shape)
        query, key, value = padded.permute(2, 0, 3, 1, 4)
        # A causal query never sees its right padding: only rows that are dropped again differ from the packed result.
        parts.append(_attend(query, key, value, causal=True).transpose(1, 2)[valid].flatten(1))
    return torch.cat(parts).index_select(0, text.buckets.inverse)


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    if query.is_cuda:
        with sdpa_kernel(CUDA_ORDER, set_priority=True):
            return scaled_dot_product_attention(query, key, value, is_causal=causal)
    if query.dtype in HALF:
        return plain_attention(query, key, value, causal=causal)
    return scaled_dot_product_attention(query, key, value, is_causal=causal)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V over [B, H, N, D]: the twin of every fused path.

    Also the CPU's path in bf16, where SDPA's backward is slow: 1.5 to 1.9 times faster than it (measured).
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(ahead, float("-inf"))
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


def _varlen(qkv_T3HD: Tensor, boundaries: Tensor, longest: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (part.contiguous() for part in qkv_T3HD.unbind(1))
    causal = _varlen_arguments() or {}
    return cast(Tensor, varlen_attn(query, key, value, boundaries, boundaries, longest, longest, **causal))
