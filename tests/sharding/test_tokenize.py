"""Tokens written beforehand are those of open_clip's tokenizer, and belong to one packing and one tokenizer alone."""

import json
import re
import subprocess
import sys

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.bpe import LEFT, RIGHT, encode, swap_sides, truncate
from sharding.cli import main
from sharding.dataset import open_dataset
from sharding.errors import UserError
from sharding.pack import pack
from sharding.tokens import open_tokens, tokenize
from sharding.verify import verify

START, END = 49406, 49407
REFERENCE = open_clip.get_tokenizer("ViT-B-16")
ODD = ["&amp;", "left", "Ⅷ", "👩‍👧", "e\u0301", "\u200b", "\x00", "ﬁ", "  ", "schön", "人", "'s", "&lt;"]
odd_text = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(ODD)).map("".join))


@given(odd_text)
def test_ids_are_open_clips(caption):
    theirs = REFERENCE([caption], context_length=300)[0].tolist()
    assert encode(caption).tolist() == theirs[: theirs.index(END) + 1]


@given(odd_text, st.integers(3, 40))
def test_truncation_keeps_the_end_as_open_clip_does(caption, context):
    theirs = REFERENCE([caption], context_length=context)[0].tolist()
    ours = truncate(encode(caption), context).tolist()
    assert ours == theirs[: len(ours)]
    assert (ours[0], ours[-1]) == (START, END)
    assert not any(theirs[len(ours) :])


@given(st.lists(st.sampled_from(["left", "Right", "LEFT", "right-hand", "leftmost", "his", "bright", ",", "right's"])))
def test_sides_change_places_as_the_words_do(words):
    caption = " ".join(words)
    other = {"left": "right", "right": "left"}
    swapped = re.sub(r"\b(left|right)\b", lambda word: other[word[0].lower()], caption, flags=re.IGNORECASE)
    assert swap_sides(encode(caption)).tolist() == encode(swapped).tolist()


def test_the_ids_of_the_sides_are_what_the_tokenizer_says():
    assert encode("left right").tolist() == [START, LEFT, RIGHT, END]


@pytest.fixture
def place(pretrain, tmp_path):
    """A packed dataset of three shards."""
    pack("pretrain_110k", pretrain(12), tmp_path / "out", shard_samples=5)
    return tmp_path / "out"


def captions_of(dataset):
    from sharding.reader import SplitReader

    readers = [SplitReader(dataset, split) for split in ("train", "val")]
    for reader in readers:
        for index in range(len(reader)):
            shard, row = reader.place(index)
            yield reader.shards[shard], row, reader.sample(shard, row).captions


def test_every_caption_of_every_sample_is_found_by_shard_and_row(place):
    dataset = open_dataset(place)
    assert open_tokens(dataset) is None
    done = tokenize(dataset)
    tokens = open_tokens(dataset)
    count = 0
    for shard, row, captions in captions_of(dataset):
        of_shard = tokens.of(shard)
        assert of_shard.captions(row) == len(captions)
        for number, caption in enumerate(captions):
            assert of_shard.row(row, number).tolist() == encode(caption).tolist()
            count += 1
    assert (done.written, done.kept, done.captions) == (len(dataset.shards), 0, count)


def test_several_processes_write_the_same_and_what_is_there_is_kept(place, capsys):
    assert main(["tokenize", "--data", str(place), "--workers", "2", "--json"]) == 0
    first = {path.name: path.read_bytes() for path in place.glob("*.tokens")}
    for name in sorted(first)[1:]:
        (place / name).unlink()
    assert main(["tokenize", "--data", str(place), "--json"]) == 0
    assert {path.name: path.read_bytes() for path in place.glob("*.tokens")} == first
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["written"], line["kept"]) for line in lines] == [(3, 0), (2, 1)]


def test_tokens_that_are_not_all_there_are_to_be_finished(place):
    tokenize(open_dataset(place))
    next(place.glob("*.tokens")).unlink()
    with pytest.raises(UserError, match="1 of 3 shards have no tokens; finish them with `sharding tokenize"):
        open_tokens(open_dataset(place))


def test_another_tokenizers_or_another_packings_tokens_are_not_found(place, pretrain, monkeypatch):
    tokenize(open_dataset(place))
    with monkeypatch.context() as patch:
        patch.setattr("sharding.tokens.tokenizer_hash", lambda: "f" * 64)
        assert open_tokens(open_dataset(place)) is None
    pack("pretrain_110k", pretrain(12, {3: {"captions": ["Somebody else."]}}), place, shard_samples=5, overwrite=True)
    assert open_tokens(open_dataset(place)) is None
    assert not list(place.glob("*.tokens"))


def test_verify_knows_tokens_and_tells_of_stale_ones(place):
    tokenize(open_dataset(place))
    assert verify(open_dataset(place).store).warnings == ()
    name = sorted(path.name for path in place.glob("*.tokens"))[0]
    stale = name.replace(name.split(".")[1][:12], "0" * 12)
    (place / name).rename(place / stale)
    report = verify(open_dataset(place).store)
    assert report.warnings == (stale,)
    assert report.intact


def test_the_tokens_of_another_shard_are_not_taken_for_its_own(place):
    dataset = open_dataset(place)
    tokenize(dataset)
    long, short = sorted(place.glob("*.tokens"), key=lambda path: path.stat().st_size)[::-2]
    long.write_bytes(short.read_bytes())
    with pytest.raises(UserError, match="is damaged"):
        open_tokens(dataset).of(next(shard for shard in dataset.shards if long.name.startswith(shard.name)))


@pytest.mark.parametrize("change", ["cut", "bit", "form", "count", "empty"])
def test_a_damaged_file_says_so_and_is_written_again(place, change):
    tokenize(open_dataset(place))
    path = sorted(place.glob("*train*.tokens"))[0]
    whole = path.read_bytes()
    data = bytearray(whole)
    data[{"form": 0, "count": 24}.get(change, -1)] ^= 1
    path.write_bytes({"cut": whole[:-2], "empty": b""}.get(change, bytes(data)))
    dataset = open_dataset(place)
    with pytest.raises(UserError, match=r"is damaged: `sharding tokenize --data .*` writes it again"):
        open_tokens(dataset).of(next(shard for shard in dataset.shards if path.name.startswith(shard.name)))
    assert tokenize(dataset).written == 1
    assert path.read_bytes() == whole


def test_training_finds_tokens_without_loading_the_tokenizer(place):
    tokenize(open_dataset(place))
    code = f"""
import sys
from sharding.dataset import open_dataset
from sharding.tokens import open_tokens
dataset = open_dataset({str(place)!r})
open_tokens(dataset).of(dataset.shards[0]).row(0, 0)
assert not {{"torch", "open_clip"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_appended_is_tokenized_by_the_same_command(place, write_json, picture):
    tokenize(open_dataset(place))
    row = {"file_path": "x.jpg", "captions": ["Somebody new."], "split": "train", "ID": "9", "id": 9, "source": "new"}
    more = write_json("PRETRAIN_110K.json", [{**row, "score": 4.0}], {"imgs/x.jpg": picture(99)})
    pack("pretrain_110k", more, place, shard_samples=5, append=True)
    done = tokenize(open_dataset(place))
    assert (done.written, done.kept, done.captions) == (1, 3, 1)


def test_a_bucket_holds_tokens_as_a_folder_does(place, moto_server):
    from tests.sharding.s3_servers import fresh_place

    store = fresh_place(moto_server)
    for path in place.iterdir():
        store.write(path.name, path.read_bytes())
    tokenize(open_dataset(store))
    tokenize(open_dataset(place))
    for path in place.glob("*.tokens"):
        assert store.read(path.name) == path.read_bytes()


def test_what_is_no_dataset_is_one_line(tmp_path, capsys):
    assert main(["tokenize", "--data", str(tmp_path)]) == 2
    assert "holds no dataset.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
