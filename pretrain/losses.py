"""Contrastive losses over the global batch: each rank scores its own rows against the columns of all ranks.

Stands between the dual encoder and the engine: the objective calls `gather_batch` once per step and hands the result to
`weighted_loss`. Every loss is the mean over this rank's rows, so the mean over ranks, which is what the engine makes of
the gradients, is the loss of the whole batch. Nothing here is chunked: the logits are one [b, B] matrix per direction.

Shapes: b rows on this rank, W ranks, B = W·b rows in the global batch, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

SDM_EPSILON = 1e-8  # the reference's: log q is -18.4 off the positives; needs fp32, it is 0 in fp16


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """One rank's pairs beside those of all ranks, in at least fp32; row i here is row `first_row + i` of the whole."""

    image: Tensor  # [b, D]
    text: Tensor  # [b, D]
    identity: Tensor  # [b] int64
    all_image: Tensor  # [B, D]
    all_text: Tensor  # [B, D]
    all_identity: Tensor  # [B] int64
    first_row: int


def gather_batch(image: Tensor, text: Tensor, identity: Tensor) -> GlobalBatch:
    """Gather every rank's features (with gradient) and identities. All ranks must call, with equally many rows.

    `image` and `text` are L2-normalised features [b, D], row i of each the i-th pair; `identity` is int64 [b].
    Half-precision features are raised to fp32 before they travel, so that gradients are summed over ranks in fp32.
    """
    return gather_batches({"": (image, text)}, identity)[""]


def gather_batches(pairs: dict[str, tuple[Tensor, Tensor]], identity: Tensor) -> dict[str, GlobalBatch]:
    """`gather_batch` for several views (image, text), each [b, D of its own], of the same pairs, by name.

    One collective each way for all of them: no order between two backwards for the ranks to agree on.
    """
    raised = {name: (at_least_fp32(image), at_least_fp32(text)) for name, (image, text) in pairs.items()}
    flat = [x for pair in raised.values() for x in pair]
    assert all(x.shape == other.shape for x, other in raised.values()), [x.shape for x in flat]
    assert all(x.ndim == 2 and len(x) == len(identity) for x in flat), (identity.shape, [x.shape for x in flat])
    gathered = iter(gather(torch.cat(flat, dim=1)).split([x.shape[1] for x in flat], dim=1))
    all_identity = gather_plain(identity)
    first_row = dist.get_rank() * len(identity) if number_of_ranks() > 1 else 0
    return {
        name: GlobalBatch(
            image=image,
            text=text,
            identity=identity,
            all_image=next(gathered),
            all_text=next(gathered),
            all_identity=all_identity,
            first_row=first_row,
        )
        for name, (image, text) in raised.items()
    }


def gather(x: Tensor) -> Tensor:
    """Concatenate x [b, …] of all ranks along dim 0 to [W·b, …], with gradient. All ranks must call, with equal shapes.

    The backward sums over ranks what each rank's loss asks of the local rows, so all ranks must run it too. Alone
    (no process group, or a world of one) it returns x itself.
    """
    return _Gather.apply(x) if number_of_ranks() > 1 else x


def gather_plain(x: Tensor) -> Tensor:
    """Concatenate x [b, …] of all ranks along dim 0 to [W·b, …]; no gradient. All ranks must call, equal shapes."""
    if number_of_ranks() == 1:
        return x
    gathered = x.new_empty((number_of_ranks() * x.shape[0], *x.shape[1:]))
    dist.all_gather_into_tensor(gathered, x.detach().contiguous())
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gather_plain(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(number_of_ranks())[dist.get_rank()]


def itc(batch: GlobalBatch, scale: Tensor | float) -> Tensor:
    """InfoNCE (CLIP, Radford et al. 2021, Fig. 3): cross-entropy of each row to its pair, half in each direction.

    `scale` is 1/τ, a number or a tensor of one element that may carry a gradient. Returns a scalar, the mean over this
    rank's rows. Another image of the same person counts as a negative; `sdm` is the loss that knows identities.
    """
    pair = torch.arange(batch.first_row, batch.first_row + len(batch.image), device=batch.image.device)
    image_to_text = F.cross_entropy(_logits(batch.image, batch.all_text, scale), pair)
    text_to_image = F.cross_entropy(_logits(batch.text, batch.all_image, scale), pair)
    return (image_to_text + text_to_image) / 2


def sdm(batch: GlobalBatch, scale: Tensor | float) -> Tensor:
    """Similarity distribution matching (IRRA, Jiang & Ye 2023, Eq. 2-4): image→text plus text→image.

    Per row i: Σ_j p_ij (log p_ij − log(q_ij + ε)), p = softmax_j(s_ij · scale), q uniform over the columns of the same
    identity. q is normalised row by row; the public code divides by column sums, right only for a square symmetric
    match. `scale` is 1/τ as in `itc` (IRRA fixes τ = 0.02). Returns a scalar, the mean over this rank's rows.
    """
    match = batch.identity[:, None] == batch.all_identity[None, :]
    log_q = torch.log(match / match.sum(dim=1, keepdim=True, dtype=batch.image.dtype) + SDM_EPSILON)
    image_to_text = _divergence(_logits(batch.image, batch.all_text, scale), log_q)
    text_to_image = _divergence(_logits(batch.text, batch.all_image, scale), log_q)
    return image_to_text + text_to_image


LOSSES: dict[str, Callable[[GlobalBatch, Tensor | float], Tensor]] = {"itc": itc, "sdm": sdm}


def weigh(terms: dict[str, Tensor], weights: dict[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms, and the unweighted terms, detached; all of them scalars."""
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


def weighted_loss(
    batch: GlobalBatch, scale: Tensor, weights: dict[str, float], *, sdm_temperature: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the losses named in `weights` (keys of LOSSES, at least one), each times its weight.

    `scale` is the learned 1/τ, exp(logit_scale); `sdm_temperature` fixes SDM's τ in its stead, and if SDM is then the
    only loss, `scale` receives no gradient. Returns (total, {name: unweighted loss, detached}), scalars, both the mean
    over this rank's rows.
    """
    terms = {}
    for name in weights:
        own_scale = 1 / sdm_temperature if name == "sdm" and sdm_temperature is not None else scale
        terms[name] = LOSSES[name](batch, own_scale)
    return weigh(terms, weights)


def _logits(rows: Tensor, columns: Tensor, scale: Tensor | float) -> Tensor:
    """Scaled similarities [b, B]; out of autocast, which would multiply in half precision."""
    with torch.autocast(rows.device.type, enabled=False):
        return scale * (rows @ columns.T)


def _divergence(logits: Tensor, log_q: Tensor) -> Tensor:
    """KL(softmax(logits) ‖ q) of each row of [b, B], averaged."""
    log_p = logits.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def at_least_fp32(x: Tensor) -> Tensor:
    """x in fp32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def number_of_ranks() -> int:
    """The number of ranks; one where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
