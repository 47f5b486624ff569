"""Synthetic people on disk: every raw layout field by field, with the traps of the real one, as its source reads it."""

import io
import json
import re
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sharding.record import Record, Reject
from sharding.sources import OWN_DATA, SOURCES
from sharding.store import LocalStore
from sharding.synthetic import LAYOUTS, SOURCE_OF, synthesize
from sharding.synthetic.camera import CUHK_FOLDERS
from sharding.synthetic.people import FAMILY_SIZE

PEOPLE = 40


REFUSED = {  # how many rows of 40 people no source takes; all others are read to the last caption
    "itcpr": {"file_path: already given by an earlier row": 1},
    "webdataset": {"captions: empty": 6},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One small copy of every layout: its folder and the number of its images, by name."""
    root = tmp_path_factory.mktemp("synthetic")
    return {layout: (root / layout, synthesize(layout, people=PEOPLE, out=root / layout)) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def roots(written):
    """The folders alone."""
    return {layout: root for layout, (root, _) in written.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_source_reads_a_layout_and_refuses_only_what_is_to_be_refused(written, layout):
    root, images = written[layout]
    store, source = LocalStore(root), SOURCE_OF.get(layout, layout)
    rows = list((SOURCES[source](store) if source in SOURCES else OWN_DATA[source](store, source)).rows)
    records = [row for row in rows if isinstance(row, Record)]
    assert Counter(row.reason for row in rows if isinstance(row, Reject)) == REFUSED.get(layout, {})
    assert sum(record.dropped_captions for record in records) == 0
    assert len({record.image for record in records}) == images - REFUSED.get(layout, {}).get("captions: empty", 0)
    for record in records:
        Image.open(io.BytesIO(store.read(*record.image))).verify()


def test_pretrain_110k_has_its_fields_its_file_names_and_identities_unique_only_within_a_source(roots):
    rows = json.loads((roots["pretrain_110k"] / "PRETRAIN_110K.json").read_text())
    names = {"IUST_PersonReID": r"IUSTPersonReID/\d+_\d+_\d+_\d+\.jpg", "ENTIRe-ID": r"ENTIReID/\d+_\d+_\d+\.jpg"}
    for row in rows:
        assert [*row] == ["file_path", "captions", "split", "score", "ID", "id", "source"]
        assert re.fullmatch(names[row["source"]], row["file_path"])
        assert Path(row["file_path"]).name.split("_")[0] == row["ID"]
        assert [type(row[name]) for name in ("score", "ID", "id")] == [float, str, int]
        assert len(row["captions"]) == 2
        assert (roots["pretrain_110k"] / "imgs" / row["file_path"]).is_file()
    people = {(row["source"], row["ID"]): row["id"] for row in rows}
    assert len(set(people.values())) == len(people) == PEOPLE
    assert max(Counter(name for _, name in people).values()) == 2
    assert sorted(people.values()) != list(range(PEOPLE))
    assert {row["split"] for row in rows} == {"train", "val"}


def test_pretrain_41k_is_the_110k_version_with_fewer_images_of_iust_and_another_id(roots):
    small = json.loads((roots["pretrain_41k"] / "PRETRAIN_41K.json").read_text())
    large = {row["file_path"]: row for row in json.loads((roots["pretrain_110k"] / "PRETRAIN_110K.json").read_text())}
    for row in small:
        path = f"imgs/{row['file_path']}"
        assert [*row] == [*large[row["file_path"]]]
        assert {**row, "id": 0} == {**large[row["file_path"]], "id": 0}
        assert (roots["pretrain_41k"] / path).read_bytes() == (roots["pretrain_110k"] / path).read_bytes()
    people, entire = ({(row["source"], row["ID"]) for row in rows} for rows in (small, large.values())), "ENTIRe-ID"
    assert len(set.intersection(*people)) == PEOPLE
    kept = Counter(row["source"] for row in small), Counter(row["source"] for row in large.values())
    assert kept[0][entire] == kept[1][entire]
    assert 0.25 < kept[0]["IUST_PersonReID"] / kept[1]["IUST_PersonReID"] < 0.55
    number = {row["id"]: (row["source"], row["ID"]) for row in large.values()}
    assert any(row["id"] in number and number[row["id"]] != (row["source"], row["ID"]) for row in small)


def arrow_tables(root: Path) -> dict:
    splits = ("train", "val", "restval", "test")
    return {name: pa.ipc.open_file(str(root / f"LUPerson_{name}.arrow")).read_all() for name in splits}


def test_luperson_t_is_four_arrow_files_of_image_bytes_two_texts_and_no_identity(roots):
    tables = arrow_tables(roots["luperson_t"])
    ids = [image_id for table in tables.values() for image_id in table["image_id"].to_pylist()]
    assert sorted(ids) == list(range(len(ids)))
    for split, table in tables.items():
        assert table.column_names == ["image", "caption", "image_id", "split"]
        assert [str(kind) for kind in table.schema.types] == ["binary", "list<item: string>", "int64", "string"]
        assert set(table["split"].to_pylist()) == {split}
        assert all(image[:2] == b"\xff\xd8" for image in table["image"].to_pylist())
        assert all(len(texts) == 2 for texts in table["caption"].to_pylist())


def test_the_json_form_of_luperson_t_has_the_images_and_texts_of_the_arrow_form_and_no_more(roots):
    rows = json.loads((roots["luperson_t_json"] / "LUPerson-T.json").read_text())
    assert all([*row] == ["file_path", "captions"] for row in rows)
    found = [((roots["luperson_t_json"] / "imgs" / row["file_path"]).read_bytes(), row["captions"]) for row in rows]
    arrow = [row for table in arrow_tables(roots["luperson_t"]).values() for row in table.to_pylist()]
    assert found == [(row["image"], row["caption"]) for row in sorted(arrow, key=lambda row: row["image_id"])]


def test_syncpr_lists_every_pair_in_both_directions_over_shared_pngs(roots):
    rows = json.loads((roots["syncpr"] / "SynCPR.json").read_text())
    mirror = {(row["target_image_path"], row["reference_image_path"]): row for row in rows}
    for row in rows:
        back = mirror[row["reference_image_path"], row["target_image_path"]]
        assert (back["reference_caption"], back["target_caption"]) == (row["target_caption"], row["reference_caption"])
        assert back["cpr_id"] == row["cpr_id"] ^ 1
        assert (roots["syncpr"] / row["reference_image_path"]).read_bytes()[:4] == b"\x89PNG"
    assert max(Counter(row["reference_image_path"] for row in rows).values()) > 1
    assert len({Path(row["reference_image_path"]).parts[0] for row in rows}) > 1
    pairs_per_text = Counter(row["cpr_id"] for row in rows)
    assert len(pairs_per_text) == PEOPLE
    assert max(pairs_per_text.values()) > 1


def test_cuhk_pedes_has_its_fields_its_folders_and_its_traps(roots):
    rows = json.loads((roots["cuhk_pedes"] / "reid_raw.json").read_text())
    for row in rows:
        assert [*row] == ["split", "captions", "file_path", "processed_tokens", "id"]
        assert [len(tokens) > 5 for tokens in row["processed_tokens"]] == [True] * len(row["captions"])
        assert (roots["cuhk_pedes"] / "imgs" / row["file_path"]).is_file()
    assert {row["id"] for row in rows} == set(range(1, PEOPLE + 1))
    assert {Path(row["file_path"]).parts[0] for row in rows} <= set(CUHK_FOLDERS)
    assert {Path(row["file_path"]).suffix for row in rows} == {".jpg", ".png", ".bmp"}
    assert {len(row["captions"]) for row in rows} == {2, 3}
    assert min(Counter(row["id"] for row in rows).values()) == 1
    told_of = {(caption, row["id"]) for row in rows for caption in row["captions"]}
    assert max(Counter(caption for caption, _ in told_of).values()) > 1


def test_the_original_annotation_of_cuhk_pedes_tells_no_split(roots):
    rows = json.loads((roots["cuhk_pedes_original"] / "caption_all.json").read_text())
    split = json.loads((roots["cuhk_pedes"] / "reid_raw.json").read_text())
    assert rows == [{name: row[name] for name in ("id", "file_path", "captions")} for row in split]
    for row in rows:
        path = f"imgs/{row['file_path']}"
        assert (roots["cuhk_pedes_original"] / path).read_bytes() == (roots["cuhk_pedes"] / path).read_bytes()


def test_icfg_pedes_has_one_caption_ids_from_0_and_paths_that_name_other_splits(roots):
    rows = json.loads((roots["icfg_pedes"] / "ICFG-PEDES.json").read_text())
    for row in rows:
        assert [*row] == ["split", "captions", "file_path", "processed_tokens", "id"]
        assert len(row["captions"]) == len(row["processed_tokens"]) == 1
        assert (roots["icfg_pedes"] / "imgs" / row["file_path"]).is_file()
    assert {row["id"] for row in rows} == set(range(PEOPLE))
    folders = {(row["split"], Path(row["file_path"]).parts[0]) for row in rows}
    assert {("train", "test"), ("test", "test"), ("train", "train")} <= folders


def test_rstpreid_has_five_images_of_a_person_by_five_cameras_under_img_path(roots):
    rows = json.loads((roots["rstpreid"] / "data_captions.json").read_text())
    for row in rows:
        assert [*row] == ["id", "img_path", "captions", "split"]
        assert len(row["captions"]) == 2
        assert (roots["rstpreid"] / "imgs" / row["img_path"]).is_file()
    cameras = {(row["id"], row["img_path"].split("_")[1]) for row in rows}
    assert Counter(person for person, _ in cameras) == dict.fromkeys(range(PEOPLE), 5)
    assert len(rows) == 5 * PEOPLE


def test_ufine6926_has_two_captions_ids_from_1_and_no_val(roots):
    (annotation,) = roots["ufine6926"].glob("*.json")
    rows = json.loads(annotation.read_text())
    for row in rows:
        assert [*row] == ["split", "id", "file_path", "captions"]
        assert len(row["captions"]) == 2
        assert (roots["ufine6926"] / "images" / row["file_path"]).is_file()
    assert {row["id"] for row in rows} == set(range(1, PEOPLE + 1))
    assert {row["split"] for row in rows} == {"train", "test"}


def test_ufine3c_is_a_test_set_of_three_sources_whose_ids_repeat_and_of_captions_in_many_lengths(roots):
    (annotation,) = roots["ufine3c"].glob("*.json")
    rows = json.loads(annotation.read_text())
    for row in rows:
        assert [*row] == ["id", "source", "split", "file_path", "captions"]
        assert 4 <= len(row["captions"]) <= 6
        assert (roots["ufine3c"] / "images" / row["file_path"]).is_file()
    assert {row["split"] for row in rows} == {"test"}
    people = {(row["source"], row["id"]) for row in rows}
    assert len(people) == PEOPLE
    assert max(Counter(number for _, number in people).values()) == len({source for source, _ in people}) == 3
    lengths = [len(caption.split()) for row in rows for caption in row["captions"]]
    assert min(lengths) < 20
    assert max(lengths) > 120


def test_itcpr_has_its_fields_its_distractors_and_its_traps(roots):
    queries, gallery = (json.loads((roots["itcpr"] / f"{name}.json").read_text()) for name in ("query", "gallery"))
    for row in queries + gallery:
        assert [*row] == ["file_path", "datasets", "person_id", "instance_id", "caption"][: 5 if row in queries else 4]
        assert [type(row[name]) for name in ("datasets", "person_id", "instance_id")] == [str, int, int]
        assert row["file_path"].split("/")[0] == row["datasets"]
        assert (roots["itcpr"] / row["file_path"]).is_file()
    corpora = {"Celeb-reID", "PRCC", "LAST"}
    assert {row["datasets"] for row in queries} == {row["datasets"] for row in gallery} == corpora
    assert [row["instance_id"] for row in queries] == list(range(1, len(queries) + 1))
    answers = Counter(row["instance_id"] for row in gallery)
    assert answers.pop(-1) > len(gallery) / 2
    assert set(answers) == {row["instance_id"] for row in queries}
    assert sorted(set(answers.values())) == [1, 2, 3, 4]  # 5 from 53 people on
    twice = [path for path, count in Counter(row["file_path"] for row in gallery).items() if count > 1]
    listed = [[row["instance_id"] for row in gallery if row["file_path"] == path] for path in twice]
    assert sorted(len(set(instances)) for instances in listed) == [1, 2]
    assert not {row["file_path"] for row in queries} & {row["file_path"] for row in gallery}
    people = {(row["datasets"], row["person_id"]) for row in gallery}
    assert len(people) == PEOPLE
    assert len({number for _, number in people}) < PEOPLE / 2
    assert max(Counter((row["datasets"], row["person_id"]) for row in queries).values()) > 1
    assert {Path(row["file_path"]).parts[1] for row in gallery if row["datasets"] == "PRCC"} == {"train", "val"}


def test_jsonl_is_a_record_a_line_that_says_no_more_than_its_owner_knows(roots):
    lines = (roots["jsonl"] / "data.jsonl").read_bytes().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    assert all(line.endswith(b"}\n") and b"\r" not in line for line in lines)
    assert {name for row in rows for name in row} == {"image", "captions", "caption", "identity", "split", "score"}
    assert all((roots["jsonl"] / row["image"]).is_file() for row in rows)
    forms = Counter(type(row.get("captions", row.get("caption"))).__name__ + "s" * ("captions" in row) for row in rows)
    assert {*forms} == {"lists", "strs", "str", "NoneType"}
    assert forms["lists"] > len(rows) / 2
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    for name in ("identity", "score"):
        assert 0 < sum(name not in row for row in rows) < len(rows) / 2
    assert any(" " in row["image"] for row in rows)


def test_a_folder_has_a_text_beside_most_images_as_editors_and_macs_save_them(roots):
    root = roots["folder"]
    images = [path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    texts = {path: path.with_suffix(".txt").read_bytes() for path in images if path.with_suffix(".txt").exists()}
    assert len(texts) + len(images) == sum(path.is_file() for path in root.rglob("*"))
    assert len(images) / 2 < len(texts) < len(images)
    assert {path.suffix for path in images} == {".jpg", ".JPG", ".jpeg", ".png"}
    assert any(text.startswith(b"\xef\xbb\xbf") and b"\r\n" in text for text in texts.values())
    assert any(b"\n\n" in text for text in texts.values())
    assert {len(text.split()) > 5 for text in texts.values()} == {True}
    names = {path.relative_to(root).parts[0] for path in images}
    assert any("." in name for name in names)
    assert any(not unicodedata.is_normalized("NFC", name) for name in names)


def test_web_shards_are_tars_of_three_members_a_sample_beside_a_table_of_every_address_tried(roots):
    tables = sorted(roots["webdataset"].glob("*.parquet"))
    assert len(tables) > 1
    for number, path in enumerate(tables):
        rows = {row["key"]: row for row in pq.read_table(path).to_pylist()}
        assert [*rows] == [f"{10_000 * number + place:09d}" for place in range(len(rows))]
        with tarfile.open(path.with_suffix(".tar")) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        keys = [name.split(".")[0] for name in members][::3]
        assert [*members] == [f"{key}.{suffix}" for key in keys for suffix in ("jpg", "json", "txt")]
        assert keys != sorted(keys)
        for key in keys:
            told = json.loads(members[f"{key}.json"])
            assert told == rows[key]
            assert members[f"{key}.txt"].decode() == (told["caption"] or "")
            assert Image.open(io.BytesIO(members[f"{key}.jpg"])).size == (told["width"], told["height"])
            assert re.match(r"https://\w+\.example\.org/", told["url"])
        counts = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        assert [counts["count"], counts["successes"]] == [len(rows), len(keys)]
        assert {key for key, row in rows.items() if row["status"] == "success"} == set(keys)


def test_web_shards_show_the_traps_of_the_web_and_of_its_tars(tmp_path):
    synthesize("webdataset", people=80, out=tmp_path / "out")
    rows = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert {row["status"] for row in rows} == {"success", "failed_to_download", "failed_to_resize"}
    captions = [row["caption"] for row in rows]
    assert None in captions
    for part in ("\n", "©", "é", "👟"):
        assert any(part in caption for caption in captions if caption)
    first, second = ((tmp_path / "out" / name).read_bytes() for name in ("00000.tar", "00001.tar"))
    assert [first[:14], first[156:157]] == [b"././@PaxHeader", b"x"]
    assert second[257:265] == b"ustar  \0"  # GNU


SPLIT = {  # people by split of 40
    "cuhk_pedes": ("reid_raw.json", {"train": 20, "val": 8, "test": 12}),
    "icfg_pedes": ("ICFG-PEDES.json", {"train": 32, "test": 8}),
    "rstpreid": ("data_captions.json", {"train": 24, "val": 8, "test": 8}),
    "ufine6926": ("UFine6926.json", {"train": 28, "test": 12}),
}


@pytest.mark.parametrize("layout", SPLIT)
def test_a_benchmark_keeps_an_identity_and_its_look_alikes_in_one_split(roots, layout):
    name, people = SPLIT[layout]
    rows = json.loads((roots[layout] / name).read_text())
    splits_of = [{row["split"] for row in rows if row["id"] == one} for one in sorted({row["id"] for row in rows})]
    assert Counter(split for splits in splits_of for split in splits) == people
    for first in range(0, PEOPLE, FAMILY_SIZE):
        assert len(set.union(*splits_of[first : first + FAMILY_SIZE])) == 1


@pytest.mark.parametrize("layout", ["icfg_pedes", "rstpreid", "ufine6926"])
def test_the_captions_on_disk_have_the_lengths_of_the_benchmark(roots, layout):
    low, high = {"icfg_pedes": (33, 43), "rstpreid": (23, 29), "ufine6926": (72, 90)}[layout]
    rows = json.loads((roots[layout] / SPLIT[layout][0]).read_text())
    lengths = [len(caption.split()) for row in rows for caption in row["captions"]]
    assert low <= sum(lengths) / len(lengths) <= high


def test_files_are_as_small_as_the_real_ones(roots):
    sizes = [path.stat().st_size for path in roots["cuhk_pedes"].rglob("*.jpg")]
    assert 1500 < sum(sizes) / len(sizes) < 12000
    assert all(Image.open(path).size[1] >= 128 for path in roots["cuhk_pedes"].rglob("*.jpg"))
