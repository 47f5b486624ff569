"""CFAM written out from its formulas (UFineBench, Zuo et al. 2024, §4): one image, caption, head and pair at a time.

Slow, in float64, with nothing of the project's: what `finetune.cfam` and `finetune.objective` are held to. Parameters
come as a dict by name. Shapes: N tokens of one image or caption, K queries, C width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def below(parameters: Parameters, prefix: str) -> Parameters:
    """The parameters of one module, by the rest of their names."""
    return {name.removeprefix(prefix): x for name, x in parameters.items() if name.startswith(prefix)}


def affine(x: Tensor, p: Parameters, name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(x: Tensor, p: Parameters, name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = (centred**2).mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[K, C] queries over [N, C] keys and values, head by head."""
    size, parts = query.shape[1] // heads, []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        parts.append(torch.softmax(scores, dim=1) @ value[:, part])
    return torch.cat(parts, dim=1)


def block(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """A pre-norm transformer block over [K, C]."""
    normed = layer_norm(x, p, "ln_1")
    qkv = normed @ p["attn.in_proj_weight"].T + p["attn.in_proj_bias"]
    x = x + affine(attention(*qkv.chunk(3, dim=1), heads), p, "attn.out_proj")
    return x + affine(gelu(affine(layer_norm(x, p, "ln_2"), p, "mlp.c_fc")), p, "mlp.c_proj")


def decoder(tokens: Tensor, p: Parameters, heads: int, layers: int) -> Tensor:
    """D_g of Eq. 3 for one image or caption: [N, E] -> [K, C]."""
    if "proj.weight" in p:
        tokens = affine(tokens, p, "proj")
    tokens = layer_norm(tokens, p, "ln_tokens")
    x = p["query_embedding"]
    for i in range(layers):
        cross = below(p, f"cross.{i}.")
        key, value = affine(tokens, cross, "key_value").chunk(2, dim=1)
        query = affine(layer_norm(x, p, f"ln_cross.{i}"), cross, "query")
        x = x + affine(attention(query, key, value, heads), cross, "out_proj")
        x = block(x, below(p, f"transformer.resblocks.{i}."), heads)
    return layer_norm(x, p, "ln_post")


def matcher(image: Tensor, text: Tensor, p: Parameters, heads: int, layers: int) -> Tensor:
    """p of Eq. 5 for one image and one caption, [K, C] each: a probability."""
    sides = [image, text]
    for side in (0, 1):
        rows = [row / row.norm() * math.sqrt(len(row)) for row in sides[side]]
        sides[side] = torch.stack(rows) + p["side_embedding"][side] + p["query_embedding"]
    x = torch.cat(sides)
    for i in range(layers):
        x = block(x, below(p, f"transformer.resblocks.{i}."), heads)
    hidden = gelu(affine(layer_norm(x, p, "ln_post").mean(dim=0), p, "mlp.0"))
    return torch.sigmoid(affine(hidden, p, "mlp.2"))[0]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def local_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Eq. 4: the mean over the K queries of the cosine of their two outputs."""
    return sum(cosine(v, w) for v, w in zip(image, text, strict=True)) / len(image)


def similarities(images: list[Tensor], texts: list[Tensor], similarity) -> list[list[Tensor]]:
    return [[similarity(image, text) for text in texts] for image in images]


def transposed(s: list[list[Tensor]]) -> list[list[Tensor]]:
    return [list(column) for column in zip(*s, strict=True)]


def sdm(s: list[list[Tensor]], identity: list[int], sharpness: float | Tensor) -> Tensor:
    """SDM (IRRA, Eq. 2-4), image to text plus text to image, each the mean over rows."""
    total = 0.0
    for rows in (s, transposed(s)):
        for i, row in enumerate(rows):
            exponentials = [torch.exp(sharpness * x) for x in row]
            for j in range(len(row)):
                p = exponentials[j] / sum(exponentials)
                q = float(identity[i] == identity[j]) / identity.count(identity[i])
                total = total + p * (torch.log(p) - math.log(q + 1e-8)) / len(identity)
    return total


def hard_negatives(s: list[list[Tensor]], identity: list[int]) -> list[int | None]:
    """For each row the most similar column of another person, None where there is nobody else."""
    chosen: list[int | None] = []
    for i, row in enumerate(s):
        others = [j for j in range(len(row)) if identity[j] != identity[i]]
        chosen.append(max(others, key=row.__getitem__) if others else None)
    return chosen


@dataclass(frozen=True)
class Pair:
    image: int
    text: int
    matched: bool


def pairs(s: list[list[Tensor]], identity: list[int]) -> list[Pair]:
    """B pairs, and for each image a hard caption and for each caption a hard image, as far as there are any."""
    texts, images = hard_negatives(s, identity), hard_negatives(transposed(s), identity)
    chosen = [Pair(i, i, True) for i in range(len(identity))]
    chosen += [Pair(i, j, False) for i, j in enumerate(texts) if j is not None]
    return chosen + [Pair(i, j, False) for j, i in enumerate(images) if i is not None]


def match(chosen: list[Pair], probability) -> Tensor:
    """Eq. 5 read as ordinary binary cross-entropy, the mean over the pairs."""
    total = 0.0
    for pair in chosen:
        p = probability(pair.image, pair.text)
        total = total - torch.log(p if pair.matched else 1 - p)
    return total / len(chosen)


def cross_entropy(feature: Tensor, label: int, p: Parameters) -> Tensor:
    logits = feature @ p["weight"].T + p["bias"]
    return torch.log(torch.exp(logits).sum()) - logits[label]


def cross_identity(
    chosen: list[Pair], images: list[Tensor], texts: list[Tensor], identity: list[int], p: Parameters
) -> Tensor:
    """Both members of each pair classified to their own identities, the mean over all of these."""
    total = 0.0
    for pair in chosen:
        total = total + cross_entropy(images[pair.image], identity[pair.image], p)
        total = total + cross_entropy(texts[pair.text], identity[pair.text], p)
    return total / (2 * len(chosen))


def identity_loss(images: list[Tensor], texts: list[Tensor], identity: list[int], p: Parameters) -> Tensor:
    """IRRA's ID loss: the mean of both modalities' cross-entropies."""
    members = [*zip(images, identity, strict=True), *zip(texts, identity, strict=True)]
    return sum(cross_entropy(feature, label, p) for feature, label in members) / len(members)
