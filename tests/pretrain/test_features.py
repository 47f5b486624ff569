"""Features of a split: rows in packing order, on any number of ranks."""

from functools import partial

import pytest
import torch

from pretrain.features import Labels, Shapes, encode, extract_features
from pretrain.model import DualEncoder
from sharding.cli import main as sharding
from sharding.dataset import open_dataset
from sharding.people import People
from sharding.reader import SplitReader
from tests.finetune.exports import TINY
from tests.pretrain.ranks import run_on_ranks


@pytest.fixture(scope="module")
def packed(shards, tmp_path_factory):
    """The benchmark in several shards: the order of rows must hold across them."""
    raw, out = shards.parent / "raw" / "cuhk_pedes", tmp_path_factory.mktemp("packed") / "cuhk_pedes"
    arguments = ["pack", "--source", "cuhk_pedes", "--input", str(raw), "--out", str(out), "--shard-samples", "7"]
    assert sharding(arguments) == 0
    return out


def extract(directory, batch_size, told=None):
    torch.manual_seed(0)
    encoder = partial(encode, DualEncoder(TINY), torch.device("cpu"))
    reader = SplitReader(open_dataset(directory), "test")
    progress = None if told is None else lambda done, total: told.append((done, total))
    found = extract_features(encoder, reader, Shapes.of(TINY, batch_size), progress)
    return [found.query, found.query_ids, found.gallery, found.gallery_ids]


def test_rows_stand_in_packing_order(packed):
    reader = SplitReader(open_dataset(packed), "test")
    assert len(reader.shards) > 1
    samples = [reader.sample(*reader.place(i)) for i in range(len(reader))]
    labels = Labels.of(reader)
    assert labels.keys == tuple(sample.key for sample in samples)
    names = sorted({sample.identity for sample in samples})
    assert labels.gallery_ids.tolist() == [names.index(sample.identity) for sample in samples]
    assert labels.query_ids.tolist() == [names.index(sample.identity) for sample in samples for _ in sample.captions]
    assert labels.caption_names[:2] == (f"{samples[0].key} caption 1", f"{samples[0].key} caption 2")
    query, _, gallery, _ = extract(packed, 4)
    alone = extract(packed, 1)
    assert torch.allclose(gallery, alone[2], atol=1e-6)
    assert torch.allclose(query, alone[0], atol=1e-6)


def test_the_number_of_ranks_changes_neither_rows_nor_order(packed):
    alone = extract(packed, 5)
    for found in run_on_ranks(extract, 2, packed, 5):
        assert torch.equal(found[1], alone[1])
        assert torch.equal(found[3], alone[3])
        assert torch.allclose(found[0], alone[0], atol=1e-6)
        assert torch.allclose(found[2], alone[2], atol=1e-6)


def test_progress_ends_at_all_images_and_captions(packed):
    told = []
    query, _, gallery, _ = extract(packed, 5, told)
    assert told == sorted(told)
    assert told[-1] == (len(query) + len(gallery),) * 2


def test_labels_are_those_of_the_people_read(packed):
    readers = [
        SplitReader(open_dataset(packed), "train", people)
        for people in (People(share=0.3, held_out=True), People(share=0.3, held_out=False), None)
    ]
    some, others, everybody = (Labels.of(reader) for reader in readers)
    assert [len(labels.keys) for labels in (some, others, everybody)] == [len(reader) for reader in readers]
    assert sorted((*some.keys, *others.keys)) == sorted(everybody.keys)
    assert int(some.captions.sum() + others.captions.sum()) == int(everybody.captions.sum())
    assert len(some.gallery_ids.unique()) + len(others.gallery_ids.unique()) == len(everybody.gallery_ids.unique())
