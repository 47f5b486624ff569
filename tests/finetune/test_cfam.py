"""CFAM's terms and heads equal the formulas written out, on one rank and on two."""

from collections import Counter
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from finetune.cfam import GranularityDecoder, HardNegatives, Matcher, local_view
from finetune.config import FinetuneSettings, HeadSettings
from finetune.objective import FinetuneObjective
from pretrain.batch import Batch
from pretrain.config import settings_from
from pretrain.losses import gather_batches
from pretrain.model import DualEncoder
from pretrain.text import PackedText, pack
from tests.finetune import cfam_reference as reference
from tests.pretrain.ranks import run_on_ranks

EMBED, HEADS, LAYERS, QUERIES = 8, 2, 2, 3
LENGTHS = [3, 1, 40, 7, 33, 2, 32, 5]  # of the captions: three buckets of 32
IDENTITIES = {
    "repeated on both ranks": [3, 1, 3, 0, 1, 3, 0, 2],
    "everyone else on the other rank": [1, 1, 1, 1, 2, 2, 2, 2],
    "one stranger": [1, 1, 1, 1, 1, 1, 1, 2],
    "nobody else": [1, 1, 1, 1, 1, 1, 1, 1],
    "all different": [0, 1, 2, 3, 4, 5, 6, 7],
}
CFAM = {"sdm": 1.0, "local": 0.7, "match": 1.3, "cid": 0.9}
HEAD_SETTINGS = HeadSettings(width=EMBED, heads=HEADS, layers=LAYERS, queries=QUERIES)


def settings_of(loss: dict[str, Any], *, head_width: int = EMBED) -> FinetuneSettings:
    vision = {"image_size": [16, 8], "patch_size": 8, "width": 8, "layers": 1, "head_width": 4}
    text = {"vocab_size": 11, "context_length": 40, "width": 8, "heads": 2, "layers": 1}
    tree = {
        "data": {"mixture": [{"path": "unused"}]},
        "model": {"embed_dim": EMBED, "vision_cfg": vision, "text_cfg": text},
        "loss": {"sdm_temperature": 0.1, **loss},
        "heads": {"width": head_width, "heads": HEADS, "layers": LAYERS, "queries": QUERIES},
    }
    return settings_from(tree, FinetuneSettings)


def objective_of(settings: FinetuneSettings) -> FinetuneObjective:
    """With weights far from their small beginnings: every path then carries a gradient worth comparing."""
    torch.manual_seed(0)
    objective = FinetuneObjective(DualEncoder(settings.model), settings, identities=8)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        objective.encoder.logit_scale.fill_(1.0)
    return objective


def batch_of(identity: list[int], rows: slice = slice(None)) -> tuple[Tensor, PackedText, Batch]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(len(identity), 3, 16, 8, generator=draw)
    tokens = [torch.randint(0, 11, (n,), generator=draw).numpy().astype("<u2").tobytes() for n in LENGTHS]
    text, labels = pack(tokens[rows]), torch.tensor(identity[rows])
    batch = Batch(images=images[rows].byte(), text=text, identity=labels, position=0, keys=())
    return images[rows], text, batch


def apart(packed: Tensor, text: PackedText) -> list[Tensor]:
    return [packed[start:end] for start, end in pairwise(text.boundaries.tolist())]


def reference_terms(objective: FinetuneObjective, images: Tensor, text: PackedText, identity: list[int]) -> Any:
    """Each term by name, in float64, from the parameters of `objective` (double) and the encoder's embeddings."""
    image_tokens, word_tokens, scale = objective.encoder(images.double(), text, True)
    loss, parameters = objective.settings.loss, dict(objective.named_parameters())
    decoder, matcher, classifier = (
        reference.below(parameters, f"heads.{name}.") for name in ("decoder", "matcher", "classifier")
    )
    captions = apart(word_tokens, text)
    image_features, text_features = [tokens[0] for tokens in image_tokens], [tokens[-1] for tokens in captions]
    sharpness = scale[0] if loss.sdm_temperature is None else 1 / loss.sdm_temperature
    by_global = reference.similarities(image_features, text_features, reference.cosine)
    terms = {"sdm": reference.sdm(by_global, identity, sharpness)}
    if not decoder:
        return terms
    decoded_images = [reference.decoder(tokens, decoder, HEADS, LAYERS) for tokens in image_tokens]
    decoded_texts = [reference.decoder(tokens, decoder, HEADS, LAYERS) for tokens in captions]
    by_local = reference.similarities(decoded_images, decoded_texts, reference.local_similarity)
    chosen = reference.pairs(by_local if loss.hardness == "local" else by_global, identity)

    def probability(image: int, caption: int) -> Tensor:
        return reference.matcher(decoded_images[image], decoded_texts[caption], matcher, HEADS, LAYERS)

    terms["local"] = reference.sdm(by_local, identity, sharpness)
    if matcher:
        terms["match"] = reference.match(chosen, probability)
    if classifier:
        terms["cid"] = reference.cross_identity(chosen, image_features, text_features, identity, classifier)
        terms["id"] = reference.identity_loss(image_features, text_features, identity, classifier)
    return terms


def assert_same_gradients(ours: Any, expected: Any, tolerance: float = 2e-4) -> None:
    """Relative to each parameter's largest gradient, or to a thousandth of the largest of all."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        allowed = tolerance * max(float(gradient.abs().max()), 1e-3 * largest)
        assert (ours[name] - gradient).abs().max() <= allowed, name


def gradients(objective: FinetuneObjective) -> dict[str, Tensor]:
    named = objective.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


ALL = {**CFAM, "id": 0.4}
ON_BOTH = IDENTITIES["repeated on both ranks"]
CASES = [
    *(pytest.param(ALL, EMBED, identity, id=name) for name, identity in IDENTITIES.items()),
    pytest.param(ALL, 12, ON_BOTH, id="projected"),
    pytest.param({**ALL, "hardness": "global"}, EMBED, ON_BOTH, id="global hardness"),
    pytest.param({**CFAM, "sdm_temperature": None}, EMBED, ON_BOTH, id="learned temperature"),
    pytest.param({"match": 1.0}, EMBED, ON_BOTH, id="match alone"),
    pytest.param({"cid": 1.0, "local": 1.0}, EMBED, ON_BOTH, id="no matcher"),
]


@pytest.mark.parametrize(("loss", "head_width", "identity"), CASES)
def test_loss_and_all_gradients_are_those_of_the_formulas(loss, head_width, identity):
    objective = objective_of(settings_of(loss, head_width=head_width))
    exact = deepcopy(objective).double()
    images, text, batch = batch_of(identity)
    total, terms = objective(images, text, batch)
    total.backward()

    expected = reference_terms(exact, images, text, identity)
    weights = {name: weight for name, weight in loss.items() if name in expected}
    wanted = sum(weight * expected[name] for name, weight in weights.items())
    wanted.backward()
    assert set(terms) == {"scale", *weights}
    for name in weights:
        assert terms[name].item() == pytest.approx(expected[name].item(), rel=2e-5, abs=1e-6), name
    assert total.item() == pytest.approx(wanted.item(), rel=2e-5)
    assert_same_gradients(gradients(objective), gradients(exact))


def losses_and_gradients() -> dict[str, dict[str, Tensor]]:
    """Of every case on this rank's part of the batch, averaged over the ranks."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    results = {}
    for hardness in ("local", "global"):
        objective = objective_of(settings_of({**ALL, "itc": 0.2, "hardness": hardness}))
        for case, identity in IDENTITIES.items():
            rows = slice(rank * len(identity) // world_size, (rank + 1) * len(identity) // world_size)
            objective.zero_grad()
            total, terms = objective(*batch_of(identity, rows))
            total.backward()
            values = {"loss": total.detach(), **terms, **gradients(objective)}
            for value in values.values():
                if world_size > 1:
                    dist.all_reduce(value)
                    value /= world_size
            results[f"{hardness}, {case}"] = values
    return results


def test_two_ranks_of_half_the_batch_give_the_loss_and_gradients_of_one_rank_of_all():
    whole = losses_and_gradients()
    for result in run_on_ranks(losses_and_gradients, 2):
        assert result.keys() == whole.keys()
        for case, values in whole.items():
            assert_same_gradients(result[case], values, tolerance=1e-4)


def test_without_negatives_only_the_pairs_are_judged():
    objective = objective_of(settings_of({"match": 1.0}))
    images, text, batch = batch_of(IDENTITIES["nobody else"])
    tokens, words, _ = objective.encoder(images, text, True)
    decoder, matcher = objective.heads["decoder"], objective.heads["matcher"]
    logits = matcher(local_view(decoder(tokens)), local_view(decoder(words, text, 40)))
    loss, _ = objective(images, text, batch)
    torch.testing.assert_close(loss, F.softplus(-logits).mean())


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, list[int]]:
    return draw(st.integers(0, 10_000)), draw(st.lists(st.integers(0, 3), min_size=1, max_size=9))


@settings(max_examples=100)
@given(batches())
@example((0, [5]))
@example((0, [5, 5, 5]))
def test_hard_negatives_are_the_most_similar_of_other_people(case):
    seed, identity = case
    draw = torch.Generator().manual_seed(seed)
    image, text = F.normalize(torch.randn(2, len(identity), 4, generator=draw), dim=2)
    hard = HardNegatives(gather_batches({"": (image, text)}, torch.tensor(identity))[""])
    s = [[float(a @ b) for b in text] for a in image]
    texts = reference.hard_negatives(s, identity)
    images = reference.hard_negatives(reference.transposed(s), identity)
    found = [[int(row) if hard.exist else None for row in rows] for rows in (hard.text, hard.image)]
    assert found == [texts, images]
    assert all(j is None or identity[i] != identity[j] for rows in found for i, j in enumerate(rows))

    pairs = reference.pairs(s, identity)
    uses = Counter(pair.image for pair in pairs), Counter(pair.text for pair in pairs)
    assert hard.image_uses.tolist() == [uses[0][i] for i in range(len(identity))]
    assert hard.text_uses.tolist() == [uses[1][i] for i in range(len(identity))]
    assert hard.pairs == len(pairs)


@pytest.mark.parametrize("width", [EMBED, 12])
def test_a_packed_caption_is_decoded_as_if_it_were_alone(width):
    torch.manual_seed(0)
    decoder = GranularityDecoder(width, HEAD_SETTINGS).double()
    text = pack([bytes(2 * length) for length in LENGTHS])
    tokens = torch.randn(sum(LENGTHS), width, dtype=torch.float64, requires_grad=True)
    ours = decoder(tokens, text, 40)
    parameters = dict(decoder.named_parameters())
    expected = torch.stack([reference.decoder(own, parameters, HEADS, LAYERS) for own in apart(tokens, text)])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    of, probe = [tokens, *parameters.values()], torch.randn_like(expected)
    for mine, other in zip(torch.autograd.grad(ours, of, probe), torch.autograd.grad(expected, of, probe), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)


def test_an_image_is_decoded_like_a_caption_of_the_same_embeddings():
    torch.manual_seed(0)
    decoder = GranularityDecoder(EMBED, HEAD_SETTINGS)
    tokens = torch.randn(3, 7, EMBED)
    as_text = decoder(tokens.flatten(0, 1), pack([bytes(14)] * 3), 40)
    torch.testing.assert_close(decoder(tokens), as_text)


def test_the_matcher_judges_each_pair_as_if_it_were_alone():
    torch.manual_seed(0)
    matcher = Matcher(HEAD_SETTINGS)
    image, text = torch.randn(2, 5, QUERIES, EMBED)
    logits = matcher(local_view(image), local_view(text))
    exact = dict(deepcopy(matcher).double().named_parameters())
    expected = [
        reference.matcher(*pair, exact, HEADS, LAYERS) for pair in zip(image.double(), text.double(), strict=True)
    ]
    torch.testing.assert_close(logits.sigmoid().double(), torch.stack(expected), rtol=0, atol=1e-6)
    assert logits.shape == (5,)
    assert logits.std() > 1e-3


def test_the_dot_product_of_local_views_is_the_mean_of_the_cosines():
    image, text = torch.randn(2, 4, QUERIES, EMBED)
    ours = local_view(image) @ local_view(text).T
    expected = [[float(reference.local_similarity(v, w)) for w in text] for v in image]
    torch.testing.assert_close(ours, torch.tensor(expected))
    torch.testing.assert_close(local_view(image).norm(dim=1), torch.ones(4))


def test_heads_exist_only_for_the_terms_that_count():
    names = {term: set(objective_of(settings_of({term: 1.0})).heads) for term in ("itc", "sdm", "local", "match", "id")}
    assert names == {
        "itc": set(), "sdm": set(), "local": {"decoder"}, "match": {"decoder", "matcher"}, "id": {"classifier"},
    }  # fmt: skip


def test_bf16_autocast_follows_fp32_with_terms_in_fp32():
    objective = objective_of(settings_of(ALL))
    inputs = batch_of(ON_BOTH)
    total, terms = objective(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, half_terms = objective(*inputs)
    assert {term.dtype for term in half_terms.values()} == {torch.float32}
    assert half.item() == pytest.approx(total.item(), rel=0.05)
    assert half.item() != total.item()
    half.backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(objective).values())
    assert terms.keys() == half_terms.keys()


def test_a_fresh_classifier_holds_all_people_for_equally_likely():
    settings = settings_of({"cid": 1.0, "id": 1.0, "hardness": "global"})
    torch.manual_seed(0)
    objective = FinetuneObjective(DualEncoder(settings.model), settings, identities=500)
    _, terms = objective(*batch_of(IDENTITIES["all different"]))
    assert float(terms["id"]) == pytest.approx(torch.tensor(500.0).log().item(), rel=0.01)
    assert float(terms["cid"]) == pytest.approx(torch.tensor(500.0).log().item(), rel=0.01)
