"""An intact dataset passes; what is missing, in another place or at odds with the rest is told, with an exit code."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from sharding.cli import main
from sharding.dataset import Dataset, manifest_bytes, open_dataset, read_table
from sharding.index import index_name, table_bytes, tar_name
from sharding.pack import pack
from sharding.store import open_store
from sharding.synthetic import synthesize
from sharding.tar import BLOCK, END
from sharding.verify import verify
from tests.sharding.damage import files, keys, path_of, republish, retable, with_value
from tests.sharding.s3_servers import BUCKET


@pytest.fixture
def dataset(pretrain: Callable[..., Path], tmp_path: Path) -> Dataset:
    """Ten images of five people: train in two shards of four, val in one of two."""
    return pack("pretrain_110k", pretrain(10), tmp_path / "shards", shard_samples=4).dataset


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with triplets."""
    root = tmp_path_factory.mktemp("syncpr")
    synthesize("syncpr", people=4, out=root / "raw", seed=0)
    pack("syncpr", root / "raw", root / "shards")
    return root / "shards"


@pytest.fixture
def triplets(composed: Path, tmp_path: Path) -> Dataset:
    """A copy of it to be damaged."""
    shutil.copytree(composed, tmp_path / "syncpr")
    return open_dataset(tmp_path / "syncpr")


def test_an_intact_dataset_passes_in_one_process_and_in_two(dataset):
    one, two = verify(dataset.directory), verify(dataset.directory, workers=2)
    assert one.intact
    assert one.warnings == ()
    assert one.samples == 10
    assert one.damaged_samples == 0
    assert one.root_hash == dataset.root_hash
    assert replace(two, seconds=one.seconds) == one


def test_intact_triplets_rejects_and_bare_images_pass(triplets, pretrain, tmp_path, picture):
    assert verify(triplets.store).intact
    odd = pretrain(8, {1: {"captions": ["", "A man."]}, 3: {"captions": []}, 5: {"file_path": "no.jpg"}})
    rejected = pack("pretrain_110k", odd, tmp_path / "odd").dataset
    assert rejected.counts["rejects"] == 2
    assert rejected.counts["dropped_captions"] == 1
    assert verify(rejected.store).intact
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(picture())
    assert verify(pack("folder", tmp_path / "photos", tmp_path / "bare", name="bare").dataset.store).intact


def test_an_appended_generation_is_verified_too(dataset, write_json, picture):
    row = {"file_path": "a/9_1_0_9.jpg", "captions": ["A boy."], "split": "train", "ID": "9", "id": 9, "source": "a"}
    raw = write_json("PRETRAIN_110K.json", [row | {"score": 1.0}], {"imgs/a/9_1_0_9.jpg": picture(9)})
    grown = pack("pretrain_110k", raw, dataset.store, append=True).dataset
    assert verify(grown.store).intact
    added = grown.generations[1].shards[0]
    tar = path_of(grown, tar_name(added.name))
    tar.write_bytes(tar.read_bytes()[: -len(END) - 1] + b"x" + END)
    assert keys(verify(grown.store)) == {"pretrain_110k-000000010"}


@pytest.mark.parametrize("names", [[tar_name], [index_name], [tar_name, index_name]])
@pytest.mark.parametrize("fast", [False, True])
def test_swapped_files_are_called_that(dataset, names, fast):
    one, two = (shard.name for shard in dataset.shards[:2])
    for name in names:
        first, second = path_of(dataset, name(one)), path_of(dataset, name(two))
        first.rename(dataset.directory / "aside")
        second.rename(first)
        (dataset.directory / "aside").rename(second)
    report = verify(dataset.store, fast=fast)
    assert [finding.problem for finding in report.findings if finding.file == names[0](one)] == [
        f"holds what {names[0](two)} should; the two are swapped"
    ]
    assert files(report) == {name(shard) for name in names for shard in (one, two)}
    assert report.damaged_samples == 8


def test_a_shard_in_place_of_another_is_told_from_a_swap(dataset):
    one, two = (path_of(dataset, tar_name(shard.name)) for shard in dataset.shards[:2])
    shutil.copy(two, one)
    [finding] = verify(dataset.store).findings
    assert finding.problem == f"holds what {two.name} should"
    assert finding.whole


COUNTS = [("images",), ("captions",), ("identities",), ("image_bytes",), ("rejects",), ("dropped_captions",)]
COUNTS += [("splits", split, what) for split in ("train", "val") for what in ("images", "captions", "identities")]


@pytest.mark.parametrize("place", COUNTS)
def test_every_edited_count_is_found(dataset, place):
    path = path_of(dataset, "dataset.json")
    content = json.loads(path.read_bytes())
    *outer, last = ("counts", *place)
    block = content
    for name in outer:
        block = block[name]
    block[last] += 1
    path.write_text(json.dumps(content))
    [finding] = verify(dataset.store).findings
    assert finding.file == "dataset.json"
    assert f"counts {block[last]:,} {last.replace('_', ' ')}" in finding.problem


def test_a_split_that_no_shard_is_of_is_found(dataset):
    path = path_of(dataset, "dataset.json")
    content = json.loads(path.read_bytes())
    content["counts"]["splits"]["test"] = {"images": 0, "captions": 0, "identities": 0}
    path.write_text(json.dumps(content))
    assert [finding.problem for finding in verify(dataset.store).findings] == [
        "counts a split 'test' that no shard is of"
    ]


@pytest.mark.parametrize("field", ["name", "split", "samples", "bytes", "sha256", "index_sha256"])
def test_every_edit_of_a_shard_in_dataset_json_is_found(dataset, field):
    path = path_of(dataset, "dataset.json")
    content = json.loads(path.read_bytes())
    shard = content["generations"][0]["shards"][0]
    shard[field] = shard[field] + 1 if isinstance(shard[field], int) else shard[field][:-1] + "x"
    path.write_text(json.dumps(content))
    report = verify(dataset.store)
    assert not report.intact
    if field in ("split", "bytes"):
        assert "dataset.json" in files(report)


def test_another_name_is_found(dataset):
    path = path_of(dataset, "dataset.json")
    path.write_text(path.read_text().replace('"name": "pretrain_110k"', '"name": "(?"', 1))
    assert [finding.problem for finding in verify(dataset.store).findings] == [
        "gives the name '(?' to what was packed under another"
    ]


def test_the_root_hash_is_recomputed(dataset):
    path = path_of(dataset, "dataset.json")
    path.write_text(path.read_text().replace('"shard_samples": 4', '"shard_samples": 5'))
    assert [(finding.file, finding.problem) for finding in verify(dataset.store).findings] == [
        ("dataset.json", "is damaged or edited: it does not match its own root hash")
    ]


def test_dataset_json_cut_short_is_damage(dataset):
    path = path_of(dataset, "dataset.json")
    path.write_bytes(path.read_bytes()[:-9])
    assert files(verify(dataset.store)) == {"dataset.json"}


def test_a_name_that_leads_out_of_the_folder_is_never_opened(dataset, monkeypatch):
    republish(dataset, dataset.shards[0].name, name="../../a")
    opened = []
    monkeypatch.setattr("sharding.store.LocalStore.open", lambda store, name: opened.append(name) or io.BytesIO())
    assert "names a shard '../../a', which no packing writes" in [f.problem for f in verify(dataset.store).findings]
    assert not any("../" in name for name in opened)


@pytest.mark.parametrize("fast", [False, True])
def test_every_removed_file_is_missed(triplets, fast):
    for name, _ in list(triplets.store.names()):
        aside = path_of(triplets, name).rename(triplets.directory.parent / "aside")
        report = verify(triplets.store, fast=fast)
        assert next(finding.problem for finding in report.findings if finding.file == name).startswith("is missing")
        if name.endswith(".tar"):
            assert report.damaged_samples == triplets.shards[0].samples
        aside.rename(path_of(triplets, name))


@pytest.mark.parametrize("ending", [".tar.idx", "sizes.json", "wids.json"])
def test_a_companion_that_does_not_follow_from_the_shards_is_found(dataset, ending):
    name = ending if ending.endswith("json") else f"{dataset.shards[0].name}{ending}"
    path = path_of(dataset, name)
    path.write_bytes(path.read_bytes().replace(b"4", b"5").replace(b"\0\0\0\0\0\0\0\0", b"\0\2\0\0\0\0\0\0"))
    assert files(verify(dataset.store)) == {name}


def test_an_edited_table_is_found(triplets):
    for name, sha256 in triplets.tables.items():
        path = path_of(triplets, name)
        whole = path.read_bytes()
        table = read_table(triplets, name, sha256)
        path.write_bytes(table_bytes(table.slice(1) if table.num_rows else pa.table({"row": [1]})))
        assert [(finding.file, finding.problem) for finding in verify(triplets.store).findings] == [
            (name, "does not match its sha256 in dataset.json")
        ]
        path.write_bytes(whole)


def test_a_triplet_of_a_sample_that_does_not_exist_is_named(triplets):
    name = "triplets.parquet"
    table = read_table(triplets, name, triplets.tables[name])
    for key in ("syncpr-000009999", "elsewhere-000000001"):
        retable(triplets, name, with_value(table, "target_key", 0, key))
        [finding] = verify(triplets.store).findings
        assert (finding.file, finding.problem) == (name, "names samples that do not exist")
        assert [sample.key for sample in finding.affected] == [key]


def test_rows_missing_from_a_table_that_is_otherwise_right_are_missed_in_the_counts(triplets):
    name = "triplets.parquet"
    retable(triplets, name, read_table(triplets, name, triplets.tables[name]).slice(0, 0))
    assert [finding.problem for finding in verify(triplets.store).findings] == [
        f"counts {triplets.counts['triplets']} triplets where the tables hold 0"
    ]


def test_triplets_are_held_to_their_own_hash(triplets):
    [generation] = triplets.generations
    forged = replace(triplets, generations=(replace(generation, triplets_hash="0" * 64),))
    path_of(triplets, "dataset.json").write_bytes(manifest_bytes(forged))
    assert [finding.problem for finding in verify(triplets.store).findings] == [
        "does not match triplets_hash in dataset.json"
    ]


def test_strange_files_are_told_of_and_no_damage(dataset):
    (dataset.directory / "notes").mkdir()
    (dataset.directory / "notes/mine.txt").write_text("mine")
    report = verify(dataset.store)
    assert report.intact
    assert report.warnings == ("notes/mine.txt",)


def test_fast_finds_wrong_sizes_and_hashes_without_looking_into_tars(dataset):
    assert verify(dataset.store, fast=True).intact
    tar = path_of(dataset, tar_name(dataset.shards[0].name))
    whole = tar.read_bytes()
    for damaged in (whole[:-BLOCK], whole[:600] + b"?" + whole[601:]):
        tar.write_bytes(damaged)
        [finding] = verify(dataset.store, fast=True).findings
        assert finding.file == tar.name
        assert "without --fast" in finding.problem


def test_the_command_tells_intact_damaged_and_no_dataset_apart_by_exit_code(dataset, tmp_path, capsys):
    place = str(dataset.directory)
    assert main(["verify", place]) == 0
    assert "intact" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "is not a directory" in capsys.readouterr().err
    tar = path_of(dataset, tar_name(dataset.shards[0].name))
    tar.write_bytes(bytes(len(tar.read_bytes())))
    assert main(["verify", place]) == 3
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert f"{tar.name}, 4 of 10 samples" in err
    assert "… and 2 more (--json lists all)" in out
    assert "header damaged, content differs" in out


def test_json_holds_the_whole_report_even_on_damage(dataset, capsys):
    tar = path_of(dataset, tar_name(dataset.shards[0].name))
    tar.write_bytes(bytes(len(tar.read_bytes())))
    assert main(["verify", "--json", str(dataset.directory)]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["intact"], report["damaged_samples"], report["root_hash"]) == (False, 4, dataset.root_hash)
    assert len(report["findings"][0]["affected"]) == 12
    assert report["findings"][0]["affected"][0] == {
        "key": "pretrain_110k-000000000",
        "member": "pretrain_110k-000000000.jpg",
        "offset": 0,
        "problem": "header damaged, content differs",
    }


def test_shards_without_dataset_json_are_damage_and_a_folder_of_anything_else_is_not(dataset, tmp_path, capsys):
    path_of(dataset, "dataset.json").unlink()
    assert main(["verify", str(dataset.directory)]) == 3
    assert "dataset.json is missing" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 2


def test_names_from_a_damaged_file_reach_no_terminal_as_commands(dataset, capsys):
    (dataset.directory / "\x1b[2Jgone").write_text("")
    assert main(["verify", str(dataset.directory)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_dataset_in_a_bucket_is_verified_there(pretrain, moto_server):
    place = open_store(f"s3://{BUCKET}/verified", endpoint=moto_server)
    dataset = pack("pretrain_110k", pretrain(10), place, shard_samples=4).dataset
    assert verify(place).intact
    name = tar_name(dataset.shards[0].name)
    tar = bytearray(place.read(name))
    tar[0] ^= 1
    place.write(name, bytes(tar))
    assert keys(verify(place)) == {"pretrain_110k-000000000"}
    place.remove(name)
    assert verify(place, fast=True).damaged_samples == 4
