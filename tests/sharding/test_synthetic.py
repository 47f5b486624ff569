"""Synthetic people: the same bytes every time, the raw layouts field by field, honest captions, look-alike families."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharding.errors import UserError
from sharding.record import Record, Reject
from sharding.sources import SOURCES
from sharding.synthetic import LAYOUTS, contact_sheet, synthesize
from sharding.synthetic.benchmarks import longer, medium
from sharding.synthetic.camera import (
    CUHK_FOLDERS,
    GENERATOR,
    MSMT_CAMERAS,
    VIDEO_SCENES,
    WEB_VIDEO,
    photograph,
)
from sharding.synthetic.captions import NOISE, Noise, human_caption, observe, template_caption
from sharding.synthetic.dice import Dice
from sharding.synthetic.draw import draw_person
from sharding.synthetic.figure import Frame, Pose
from sharding.synthetic.fine_captions import LEAST, fine_caption
from sharding.synthetic.layouts import SYNCPR_EDITABLE, generated_pair, quadruple
from sharding.synthetic.long_captions import MODEL_WINDOW, model_caption
from sharding.synthetic.people import (
    CLOTHES_COLOURS,
    FAMILY_EVERY,
    FAMILY_SIZE,
    UPPERS,
    differences,
    family,
    identity,
    redraw,
)
from sharding.synthetic.words import COLOUR_WORDS, HIDDEN_FROM_BEHIND, KIND_WORDS, phrase, shows_second, tellable
from sharding.synthetic.write import Write

PEOPLE = 40

FAITHFUL = Noise(wrong=0.0, dropped=0.0, vague=0.0)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One small copy of every layout, by name."""
    root = tmp_path_factory.mktemp("synthetic")
    for layout in LAYOUTS:
        synthesize(layout, people=PEOPLE, out=root / layout)
    return {layout: root / layout for layout in LAYOUTS}


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def everyone(count=400, layout="any"):
    return [identity(layout, 0, index) for index in range(count)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(layout, tmp_path):
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        synthesize(layout, people=6, out=tmp_path / name, seed=seed)
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "same")
    assert tree_hash(tmp_path / "one") != tree_hash(tmp_path / "other")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_returned_is_the_number_of_images_and_progress_reaches_the_total(layout, tmp_path):
    calls = []
    images = synthesize(
        layout, people=5, out=tmp_path / "out", progress=lambda done, total: calls.append((done, total))
    )
    if layout == "luperson_t":
        assert images == sum(len(rows) for rows in arrow_tables(tmp_path / "out").values())
    else:
        assert images == sum(path.suffix in (".jpg", ".png", ".bmp") for path in (tmp_path / "out").rglob("*"))
    assert calls[-1][0] == calls[-1][1] == len(calls)


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_source_reads_a_layout_without_a_reject(roots, layout):
    rows = list(SOURCES[layout](roots[layout]).rows)
    records = [row for row in rows if isinstance(row, Record)]
    assert [row for row in rows if isinstance(row, Reject)] == []
    assert sum(record.dropped_captions for record in records) == 0
    assert all(isinstance(record.image, bytes) or record.image.is_file() for record in records)


def test_in_the_ultra_fine_benchmark_everybody_has_three_look_alikes():
    people = everyone(80, "ufine6926")
    for index, person in enumerate(people):
        alike = [other for other in people if 1 <= len(differences(person, other)) <= 2]
        assert len(alike) >= FAMILY_SIZE - 1, index


@given(seed=st.integers(0, 2**31), block=st.integers(0, 10**6))
def test_members_of_a_family_differ_in_one_or_two_attributes(seed, block):
    members = family("any", seed, block)
    pairs = [(one, other) for k, one in enumerate(members) for other in members[k + 1 :]]
    assert [identity("any", seed, block * FAMILY_EVERY + k) for k in range(FAMILY_SIZE)] == list(members)
    assert all(1 <= len(differences(one, other)) <= 2 for one, other in pairs)


def test_layouts_share_no_people_and_strangers_differ_widely():
    one, other = everyone(400, "cuhk_pedes"), everyone(400, "pretrain_110k")
    assert not set(one) & set(other)
    strangers = [person for index, person in enumerate(one) if index % FAMILY_EVERY >= FAMILY_SIZE]
    assert len(set(strangers)) == len(strangers)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_carry_the_noise_that_is_set(layout):
    states: Counter[str] = Counter()
    for index, person in enumerate(everyone(1500)):
        seen = observe(person, "front", NOISE[layout], Dice(layout, index))
        states.update(seen.state[name] for name in tellable(person, "front"))
        right = {name for name, state in seen.state.items() if state != "wrong"}
        assert not right & set(differences(person, seen.person))
    total = sum(states.values())
    for state in ("wrong", "dropped", "vague"):
        assert states[state] / total == pytest.approx(getattr(NOISE[layout], state), abs=0.02)


@pytest.mark.parametrize(
    ("style", "window", "mean"),
    [
        (human_caption, (8, 40), (21, 25)),
        (template_caption, (5, 32), (15, 25)),
        (model_caption, MODEL_WINDOW, (66, 72)),
        (longer, (8, 45), (23, 29)),
        (medium, (18, 90), (36, 46)),
        (fine_caption, (LEAST, 218), (68, 92)),
    ],
)
@pytest.mark.parametrize("view", ["front", "back", "side"])
def test_captions_are_as_long_as_their_source_writes_them(style, window, mean, view):
    texts = [style(observe(person, view, FAITHFUL, Dice(k)), Dice(view, k)) for k, person in enumerate(everyone())]
    lengths = [len(text.split()) for text in texts]
    assert window[0] <= min(lengths) <= max(lengths) <= window[1]
    assert mean[0] <= sum(lengths) / len(lengths) <= mean[1]


@settings(deadline=None, max_examples=100)
@given(index=st.integers(0, 10**6), view=st.sampled_from(["front", "back", "side"]))
def test_captions_are_clean_english_that_mirroring_leaves_true(index, view):
    person = identity("any", 1, index)
    for style in (human_caption, template_caption, model_caption, longer, medium, fine_caption):
        seen = observe(person, view, NOISE["pretrain_110k"], Dice(index))
        text = style(seen, Dice(index, view))
        assert re.fullmatch(r"[A-Z][a-zA-Z',. -]+\.", text)
        assert not re.search(
            r"\b(left|right|none|None)\b|\ba [aeiou]|\ban [^aeiou]|  |\.\.|a pair of a\b|\ba a\b", text
        )
        assert not re.search(
            r"footwear|something in|head shows|dress\b[^.]* on the upper body|body is covered by[^.]* dress\b", text
        )
        assert not ("shopping bag" in text and re.search("carry a bag|not carrying a bag|No bag", text))
        assert not ("combines" in text and seen.state["upper"] == "dropped")
        assert not (view == "back" and "glasses" in text)


@settings(deadline=None, max_examples=100)
@given(index=st.integers(0, 10**6), view=st.sampled_from(["front", "back", "side"]))
def test_an_ultra_fine_caption_tells_everything_that_can_be_seen(index, view):
    person = identity("any", 3, index)
    text = fine_caption(observe(person, view, FAITHFUL, Dice(index)), Dice(index, view))
    for name in tellable(person, view):
        value = getattr(person, name)
        if name == "scarf":
            assert re.search(f"({'|'.join(COLOUR_WORDS.get(value, (value,)))}) scarf", text)
        elif name != "hair":
            kind = value if isinstance(value, str) else value.kind
            assert any(word in text for word in KIND_WORDS[kind]), name
        if not isinstance(value, str) and getattr(value, "kind", "") != "bald":
            assert any(word in text for word in COLOUR_WORDS.get(value.colour, (value.colour,))), name
    if shows_second(person, view):
        assert any(word in text for word in COLOUR_WORDS.get(person.upper.second, (person.upper.second,)))
    if person.lower is not None and person.lower.length != "long":
        assert person.lower.length in text


@pytest.mark.parametrize("layout", ["icfg_pedes", "rstpreid", "ufine6926"])
def test_the_captions_on_disk_have_the_lengths_of_the_benchmark(roots, layout):
    low, high = {"icfg_pedes": (33, 43), "rstpreid": (23, 29), "ufine6926": (72, 90)}[layout]
    rows = json.loads((roots[layout] / SPLIT[layout][0]).read_text())
    lengths = [len(caption.split()) for row in rows for caption in row["captions"]]
    assert low <= sum(lengths) / len(lengths) <= high


@pytest.mark.parametrize("kind", UPPERS["woman"])
def test_a_garment_mistaken_for_another_has_words(kind):
    for index, person in enumerate(everyone(200)):
        mistaken = replace(person, upper=replace(person.upper, kind=kind))
        text = phrase("upper", mistaken, Dice(index), view="front")
        assert any(word in text for word in KIND_WORDS[kind])


@settings(deadline=None, max_examples=100)
@given(index=st.integers(0, 10**6), view=st.sampled_from(["front", "back", "side"]), number=st.integers(0, 9))
def test_what_can_be_told_can_be_seen(index, view, number):
    person, dice = identity("any", 1, index), Dice("changes", index)
    before = drawn(person, view, number)
    for name in tellable(person, view):
        changes = [redraw(person, name, dice, fine=False)]
        if name == "upper":
            changes = [replace(person, upper=recoloured(person.upper, "colour"))]
            changes += [replace(person, upper=recoloured(person.upper, "second"))] * shows_second(person, view)
        elif person.carried in HIDDEN_FROM_BEHIND and name == "carried":  # swapped in the same raised hand
            changes = [replace(person, carried=other) for other in HIDDEN_FROM_BEHIND if other != person.carried]
        elif name in ("lower", "shoes", "bag", "hat"):
            changes.append(replace(person, **{name: recoloured(getattr(person, name), "colour")}))
        for changed in changes:
            pixels = (np.abs(drawn(changed, view, number) - before).max(2) > 10).sum()
            assert pixels >= 20, (name, getattr(person, name), getattr(changed, name))


def drawn(person, view, number) -> np.ndarray:
    frame = Frame(width=120, height=250, axis=60, crown=8, scale=232, tilt=0.15)
    sheet = draw_person(person, Pose.random(person, view, Dice("pose", number)), frame, Dice("shade", number))
    return np.asarray(sheet.colour, dtype=int)


def recoloured(thing, field: str):
    """A garment or thing with another colour that it does not show yet."""
    shown = {getattr(thing, name) for name in ("colour", "second") if hasattr(thing, name)}
    return replace(thing, **{field: next(colour for colour in CLOTHES_COLOURS if colour not in shown)})


def test_a_syncpr_edit_can_be_read_and_seen(tmp_path, monkeypatch):
    photos: list = []
    monkeypatch.setattr(Write, "photo", lambda self, person, index, view, number, domain: photos.append((person, view)))
    monkeypatch.setitem(NOISE, "syncpr", FAITHFUL)
    write = Write(layout="syncpr", seed=0, people=1, root=tmp_path, progress=lambda *_: None)
    lengths = []
    for index in range(300):
        quad = quadruple("syncpr", 0, index)
        assert quad.captions[0] != quad.captions[1]
        lengths += [len(text.split()) for text in quad.captions]
        generated_pair(write, quad, index, 0)
        for person, view in photos[-2:]:
            assert {name for name in quad.told if getattr(person, name)} <= set(tellable(person, view))
            assert person.upper.pattern == "plain" or "upper" not in quad.told or shows_second(person, view)
            assert (person.gender, person.age) == (quad.reference.gender, quad.reference.age)
    assert 12 <= sum(lengths) / len(lengths) <= 15


def test_an_edit_caption_names_exactly_what_changed():
    for index in range(300):
        quad = quadruple("syncpr", 0, index)
        assert set(differences(quad.reference, quad.target)) == set(quad.changed)
        for before, after, edit in (
            (quad.reference, quad.target, quad.edits[0]),
            (quad.target, quad.reference, quad.edits[1]),
        ):
            named = {name for name in SYNCPR_EDITABLE if mentions(edit, name, before, after)}
            assert named == set(quad.changed), edit


def mentions(edit: str, name: str, before, after) -> bool:
    """Whether a text names the value that `after` has for an attribute, or the one that `before` has lost."""
    value = getattr(after, name) or getattr(before, name)
    if name == "scarf":
        return "scarf" in edit
    kind = value if isinstance(value, str) else getattr(value, "kind", None)
    return kind is not None and any(re.search(rf"\b{word}\b", edit) for word in (*KIND_WORDS[kind], kind))


@pytest.mark.parametrize("view", ["front", "back", "side"])
@pytest.mark.parametrize("domain", [*CUHK_FOLDERS.values(), *MSMT_CAMERAS, GENERATOR, WEB_VIDEO, VIDEO_SCENES])
def test_pictures_are_upright_rgb_within_their_domain_and_none_is_blank(domain, view):
    for index in range(4):
        photo = photograph(identity("any", 2, index), view, domain, Dice(view, index), Dice(index))
        low, high = domain.height
        assert photo.image.mode == "RGB"
        assert int(low) <= photo.image.height <= high
        assert 1.7 <= photo.image.height / photo.image.width <= 3.2
        assert min(high - low for low, high in photo.image.getextrema()) > 80
        assert 1.0 <= photo.score <= 5.0


def test_look_alikes_are_drawn_differently():
    members = family("any", 0, 3)
    pictures = {photograph(person, "front", GENERATOR, Dice(1), Dice(2)).encode("png") for person in members}
    assert len(pictures) >= 3  # a hat may hide the one changed detail, the hair


def test_files_are_as_small_as_the_real_ones(roots):
    sizes = [path.stat().st_size for path in roots["cuhk_pedes"].rglob("*.jpg")]
    assert 1500 < sum(sizes) / len(sizes) < 12000
    assert all(Image.open(path).size[1] >= 128 for path in roots["cuhk_pedes"].rglob("*.jpg"))


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stray").touch()
    synthesize("cuhk_pedes", people=1, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "stray").exists()


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize("cuhk_pedes", people=5, out=tmp_path / "out", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told_in_one_line(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for layout, people, out in (("cuhk", 4, "new"), ("syncpr", 0, "new"), ("syncpr", 4, "full")):
        with pytest.raises(UserError) as error:
            synthesize(layout, people=people, out=tmp_path / out)
        assert "\n" not in str(error.value)
    assert (tmp_path / "full" / "file").exists()


def test_the_contact_sheet_has_a_row_per_person_and_a_column_per_view():
    small, large = (contact_sheet("cuhk_pedes", people=n, columns=4 * n, captions=True) for n in (1, 2))
    assert large.height > 1.8 * small.height
    assert large.width > 1.8 * small.width


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, sharding.synthetic; print([m for m in ('numpy', 'PIL', 'pyarrow', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
