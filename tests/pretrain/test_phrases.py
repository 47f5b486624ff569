"""Scores of phrases: the right numbers in the right rows, whatever was batched, killed, or shared between ranks."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import normalize

from pretrain import phrases
from pretrain.cli import main as pretrain
from pretrain.features import encode
from pretrain.phrases import PhraseScorer, score_phrases
from pretrain.pictures import picture, stacked
from pretrain.text import pack, tokenize
from sharding.cli import main as sharding
from sharding.dataset import open_dataset, read_index
from sharding.errors import UserError
from sharding.pseudo_text.choose import choose
from sharding.pseudo_text.scores import read_groups, read_origin
from sharding.pseudo_text.vocabulary import vocabulary
from sharding.reader import SplitReader
from sharding.synthetic.people import LOWERS, UPPERS, identity
from tests.finetune.exports import TINY, tiny_export
from tests.pretrain.ranks import run_on_ranks
from tests.test_imports import ROOT

WORDS = vocabulary()
CPU = torch.device("cpu")
PROMPTS = WORDS["upper_clothes"].prompts
STEPS = 1400
GARMENTS = {"upper": UPPERS, "lower": LOWERS}
PART = 5  # images, so that the few of a test make several parts of a shard


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """About thirty images of two splits, in shards of twelve at most."""
    root = tmp_path_factory.mktemp("bare")
    synth = ["synth", "--layout", "rstpreid", "--people", "12", "--out", str(root / "raw"), "--seed", "3"]
    assert sharding(synth) == 0
    packing = ["pack", "--source", "rstpreid", "--input", str(root / "raw"), "--out", str(root / "shards")]
    assert sharding([*packing, "--shard-samples", "12"]) == 0
    return root / "shards"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_export(tmp_path_factory.mktemp("weights") / "tiny", 0)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(phrases, "PART", PART)


def score(data, weights, out, **options):
    phrases.PART = PART  # on spawned ranks
    scored = score_phrases(open_dataset(data), PhraseScorer(weights, TINY, WORDS, CPU), out, **options)
    return [scored.images, scored.scored]


def matrix(path):
    """Keys and float32 [images, columns] of a file of scores."""
    groups = list(read_groups(path, WORDS))
    keys = [key for keys, _ in groups for key in keys]
    return keys, np.concatenate([np.concatenate(list(cosines.values()), axis=1) for _, cosines in groups])


def test_every_image_has_the_cosines_of_its_picture_with_the_mean_of_each_phrase_s_sentences(data, weights, tmp_path):
    dataset, scorer = open_dataset(data), PhraseScorer(weights, TINY, WORDS, CPU)
    score(data, weights, tmp_path / "scores", batch_size=4)
    keys, found = matrix(tmp_path / "scores")
    readers = [SplitReader(dataset, split) for split in dict.fromkeys(shard.split for shard in dataset.shards)]
    samples = {s.key: s for reader in readers for s in (reader.sample(*reader.place(i)) for i in range(len(reader)))}
    assert sorted(keys) == sorted(samples)
    columns = [column for attribute in WORDS.attributes for column in attribute.columns]
    for number in (0, 200, 319):
        texts = pack([tokenize(sentence, 77) for sentence in columns[number]])
        phrase = normalize(encode(scorer.model, CPU, None, texts)[1].mean(0), dim=-1)
        for row in (0, 7, len(keys) - 1):
            pixels = stacked([picture(samples[keys[row]], TINY.vision_cfg.image_size)])
            image = encode(scorer.model, CPU, pixels, None)[0][0]
            assert found[row, number] == pytest.approx(float(image @ phrase), abs=1e-5)


def test_rows_stand_in_packing_order_whatever_the_batch(data, weights, tmp_path):
    score(data, weights, tmp_path / "ones", batch_size=1)
    score(data, weights, tmp_path / "many", batch_size=100)
    (keys, one), (others, many) = matrix(tmp_path / "ones"), matrix(tmp_path / "many")
    assert keys == others == sorted(keys, key=lambda key: packing_order(data).index(key))
    assert np.allclose(one, many, atol=1e-5)


def packing_order(data):
    dataset = open_dataset(data)
    return [key for shard in dataset.shards for key in read_index(dataset, shard, ["key"])["key"].to_pylist()]


def test_one_split_can_be_scored_alone(data, weights, tmp_path):
    images, _ = score(data, weights, tmp_path / "scores", split="test")
    keys, _ = matrix(tmp_path / "scores")
    assert len(keys) == images == open_dataset(data).counts["splits"]["test"]["images"]
    assert read_origin(tmp_path / "scores").split == "test"
    with pytest.raises(UserError, match="no split 'nowhere'"):
        score(data, weights, tmp_path / "other", split="nowhere")


def test_a_killed_scoring_goes_on_with_what_it_finds(data, weights, tmp_path, monkeypatch):
    images, scored = score(data, weights, tmp_path / "whole", batch_size=4)
    assert scored == images
    calls, cosines = Counter(), PhraseScorer.cosines

    def killed(scorer, batch):
        calls["batches"] += 1
        if calls["batches"] == 4:
            raise KeyboardInterrupt
        return cosines(scorer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PhraseScorer, "cosines", killed)
        with pytest.raises(KeyboardInterrupt):
            score(data, weights, tmp_path / "parts", batch_size=4)
    assert not (tmp_path / "parts").exists()
    assert len(list((tmp_path / "parts.parts").iterdir())) == 1
    _, scored = score(data, weights, tmp_path / "parts", batch_size=4)
    assert scored == images - PART
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not (tmp_path / "parts.parts").exists()
    assert score(data, weights, tmp_path / "parts", batch_size=4) == [images, 0]


def test_ranks_share_the_images_and_write_one_file(data, weights, tmp_path):
    images, _ = score(data, weights, tmp_path / "alone", batch_size=4)
    found = run_on_ranks(score, 2, data, weights, tmp_path / "shared")
    assert [total for total, _ in found] == [images, images]
    assert sum(scored for _, scored in found) == images
    assert all(scored for _, scored in found)
    (keys, alone), (others, shared) = matrix(tmp_path / "alone"), matrix(tmp_path / "shared")
    assert keys == others
    assert np.allclose(alone, shared, atol=1e-5)


def test_scores_and_parts_of_something_else_are_refused(data, weights, tmp_path):
    score(data, weights, tmp_path / "scores")
    other = tiny_export(tmp_path / "other", 1)
    with pytest.raises(UserError, match="scores holds scores of another weights: remove it"):
        score(data, other, tmp_path / "scores")
    with pytest.raises(UserError, match="another split"):
        score(data, weights, tmp_path / "scores", split="test")
    (tmp_path / "new.parts").mkdir()
    (tmp_path / "scores").rename(tmp_path / "new.parts" / "some-000000.parquet")
    with pytest.raises(UserError, match=r"new.parts holds scores of another weights: remove it"):
        score(data, other, tmp_path / "new")


def test_the_command_scores_tells_and_refuses_in_one_line(data, weights, tmp_path, capsys):
    command = ["score-phrases", "--data", str(data), "--weights", str(weights), "--out", str(tmp_path / "s"), "--json"]
    assert pretrain([*command, "--device", "cpu", "--batch-size", "7"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["already_complete"]) == (len(packing_order(data)), False)
    assert result["root_hash"] == open_dataset(data).root_hash
    assert pq.read_metadata(tmp_path / "s").num_rows == result["images"]
    assert pretrain(command) == 0
    assert json.loads(capsys.readouterr().out)["already_complete"]
    for change in (
        ["--split", "no"],
        ["--weights", str(tmp_path)],
        ["--data", str(tmp_path)],
        ["--out", str(tmp_path)],
    ):
        assert pretrain([*command, *change]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def execute(*command):
    """Run a command on one thread a process from the checkout, the tests' own Python first on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Else a fifth of the time goes into the page faults of memory that is given back and asked for again.
    memory = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
    variables = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | memory
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=1800)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def drawn(folder, *, people, seed, captions):
    """People drawn and packed as own data: who is on an image is its identity, and `captions` tells of a person."""
    drawing = ["synth", "--layout", "folder", "--people", str(people), "--seed", str(seed), "--out", str(folder)]
    assert sharding(drawing) == 0
    with (folder / "data.jsonl").open("w") as lines:
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")):
            index = int(path.stem.split("_")[0])
            row = {"image": str(path.relative_to(folder)), "identity": index}
            lines.write(json.dumps(row | {"captions": captions(identity("folder", seed, index))}) + "\n")
    out = folder.with_name(f"{folder.name}_packed")
    assert sharding(["pack", "--source", "jsonl", "--name", "people", "--input", str(folder), "--out", str(out)]) == 0
    return out


def told(person):
    """What the model is to learn from: each garment with its colour, both of them, and both without their colours."""
    worn = [
        next(p for p in WORDS[f"{name}_clothes"].phrases if (p.name, p.colour) == (garment.kind, garment.colour))
        for name, garment in (("upper", person.upper), ("lower", person.lower))
        if garment is not None
    ]
    coloured = [phrase.asked for phrase in worn]
    both, kinds = " and ".join(coloured), " and ".join(replace(phrase, colour=None).asked for phrase in worn)
    return [prompt.format(words) for prompt in PROMPTS for words in (*coloured, both, both, kinds, kinds)]


def recovery(scores, data, seed):
    """By part of the clothes: how often the best phrase is right, and how often the commonest value would be.

    Of the phrases whose garments synthetic people wear: of the others the model has never heard.
    """
    dataset = open_dataset(data)
    names = [
        name for shard in dataset.shards for name in read_index(dataset, shard, ["identity"])["identity"].to_pylist()
    ]
    people = [identity("folder", seed, int(name.split(":")[1])) for name in names]
    groups = [cosines for _, cosines in read_groups(scores, WORDS)]
    found = {}
    for garment in ("upper", "lower"):
        attribute = WORDS[f"{garment}_clothes"]
        drawn_at_all = {kind for kinds in GARMENTS[garment].values() for kind in kinds}
        known = [number for number, phrase in enumerate(attribute.phrases) if phrase.name in drawn_at_all]
        cosines = np.concatenate([group[attribute.name] for group in groups])[:, known]
        attribute = replace(attribute, phrases=tuple(attribute.phrases[number] for number in known))
        best = [attribute.phrases[number] for number in choose(attribute, cosines, 1.0, 0.9)]
        pairs = [(p, getattr(who, garment)) for p, who in zip(best, people, strict=True) if getattr(who, garment)]
        for part, asked, true in (
            ("colour", [p.colour for p, _ in pairs], [item.colour for _, item in pairs]),
            ("garment", [p.name for p, _ in pairs], [item.kind for _, item in pairs]),
        ):
            right = np.mean([one == other for one, other in zip(asked, true, strict=True)])
            found[f"{garment} {part}"] = float(right), Counter(true).most_common(1)[0][1] / len(true)
    return found


@pytest.mark.slow
def test_a_small_model_recovers_colours_and_garments_of_people_it_never_saw(tmp_path):
    drawn(tmp_path / "seen", people=3500, seed=0, captions=told)
    bare = drawn(tmp_path / "unseen", people=400, seed=1, captions=lambda person: [])
    settings = {
        "run.dir": tmp_path / "run", "data.root": tmp_path, "data.mixture": "[{path: seen_packed}]",
        "data.pad": 0, "model.text_cfg.layers": 1, "model.text_cfg.width": 64, "model.text_cfg.heads": 2,
        "launch.ranks": 1, "launch.backend": "local", "checkpoint.every": STEPS, "optim.weight_decay": 0.05,
        "optim.steps": STEPS, "optim.batch_size": 64, "optim.lr": 1e-3, "eval.data": "null", "eval.keep": "last",
    }  # fmt: skip
    overrides = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    execute(sys.executable, "-m", "pretrain.run", "--config", "pretrain/recipes/demo.yaml", *overrides)
    scoring = ["--data", str(bare), "--weights", str(tmp_path / "run" / "export"), "--out", str(tmp_path / "scores")]
    execute("torchrun", "--nproc-per-node", "2", "-m", "pretrain.cli", "score-phrases", *scoring)
    for part, (right, commonest) in recovery(tmp_path / "scores", bare, 1).items():
        print(f"{part}: {right:.3f} right, {commonest:.3f} the commonest")
        assert right > (2 if "colour" in part else 1.05) * commonest, part
