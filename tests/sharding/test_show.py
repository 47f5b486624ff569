"""`sharding show`: a page and a picture that are whole, escaped, the same each time, and show what was asked for."""

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharding.cli import main
from sharding.show import Choice, choose, show
from sharding.show.contact_sheet import HEIGHT, MOST_LINES, wrap
from sharding.store import LocalStore
from tests.page import Page
from tests.sharding.handmade import Made, write_dataset
from tests.sharding.s3_servers import fresh_place

CHROMIUM = shutil.which("chromium")
HOSTILE = (
    """<script>alert("boo")</script> & <img src=x onerror='alert(1)'> a "man" in 'red'""",
    "</p></figcaption></figure><style>*{display:none}</style><a href=//evil.example>here</a>",
    "{{ 7 * 7 }} {% include 'show.py' %} &lt;b&gt;",
    "رجل يرتدي معطفا أحمر \u202egnp.exe\u202c",
    "👩‍🦽 a woman 🇨🇭 \x1b[31m",
    "word " * 300 + "x" * 3000,
)
TAGS = {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "main", "section", "div"}
TAGS |= {"figure", "img", "figcaption", "small", "b"}
PEOPLE = [
    Made(
        person=f"{number // 3:02d}",
        split="train" if number < 15 else "val",
        colour=(12 * number, 60, 90),
        size=(20, 50),
        captions=(f"A person in coat {number}.", f"Seen walking, {number}."),
        score=number / 10,
    )
    for number in range(18)
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("made"), PEOPLE, shard_samples=4)


def run(place, out, *options):
    assert main(["show", str(place), "--out", str(out), *map(str, options)]) == 0
    return out


def shown_keys(capsys):
    return [int(key[-9:]) for key in json.loads(capsys.readouterr().out)["keys"]]


def test_the_page_shows_images_captions_and_people_and_needs_nothing_but_itself(dataset, tmp_path):
    page = Page(run(dataset.directory, tmp_path / "page.html", "--count", 18).read_text())
    images = page.all("img")
    assert [base64.b64decode(one["src"].removeprefix("data:image/png;base64,")) for one in images] == [
        sample.image for sample in PEOPLE
    ]
    assert all(caption in page.text for sample in PEOPLE for caption in sample.captions)
    assert "street:05" in page.text
    assert "18 images at random, seed 0; all splits." in page.text
    assert dataset.root_hash in page.text
    assert {"script", "link", "iframe", "object", "base", "a"}.isdisjoint(tag for tag, _ in page.elements)
    assert not re.search(
        r"url\(|@import|https?:|//", page.html[page.html.index("<style>") : page.html.index("</style>")]
    )
    assert "default-src 'none'" in page.html


def test_whatever_captions_hold_is_text(tmp_path):
    place = tmp_path / "made"
    samples = [Made(person='<u>"1', colour=(n, 0, 0), captions=(caption,)) for n, caption in enumerate(HOSTILE)]
    write_dataset(place, samples)
    for options in ([], ["--by", "identity"]):
        page = Page(run(place, tmp_path / "page.html", *options).read_text())
        for caption in HOSTILE:
            assert caption in page.text
        assert {tag for tag, _ in page.elements} <= TAGS
        names = {name for _, attributes in page.elements for name in attributes}
        assert not any(name.startswith("on") or name in ("href", "style") for name in names)
        assert all(one["src"].startswith("data:image/png;base64,") for one in page.all("img"))
        assert page.text.count("*{display:none}") == 1
    picture = Image.open(run(place, tmp_path / "sheet.png"))
    assert picture.height < HEIGHT + 17 * (MOST_LINES + 4)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_it_in_light_in_dark_and_on_a_phone(tmp_path):
    place, file = tmp_path / "made", tmp_path / "page.html"
    samples = [Made(person=str(n), colour=(200, 40 * n, 0), captions=(caption,)) for n, caption in enumerate(HOSTILE)]
    write_dataset(place, samples)
    run(place, file)
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    quiet += ["--disable-sync", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command = [CHROMIUM, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={tmp_path / 'chromium'}"]
    shades = {}
    for name, width, options in (
        ("light", 1280, []),
        ("dark", 1280, ["--blink-settings=preferredColorScheme=0"]),
        ("phone", 500, []),
    ):
        shot = tmp_path / f"{name}.png"
        options = [*options, f"--screenshot={shot}", f"--window-size={width},900", file.as_uri()]
        seen = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in seen.stderr
        pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
        assert (pixels == (200, 0, 0)).all(axis=2).sum() > 5000, "the first image is not there"
        shades[name] = np.median(pixels)
        assert (pixels[:, -4:] == pixels[0, -1]).all(), "wider than the screen"
    assert shades["light"] > 220
    assert shades["dark"] < 40


def test_a_large_image_is_shrunk_for_the_page(tmp_path):
    write_dataset(tmp_path / "made", [Made(person="1", size=(900, 1800))])
    page = Page(run(tmp_path / "made", tmp_path / "page.html").read_text())
    [image] = page.all("img")
    data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (320, 640)
    assert "no caption" in page.text


def test_the_picture_has_a_cell_for_every_image(dataset, tmp_path):
    picture = Image.open(run(dataset.directory, tmp_path / "sheet.png", "--count", 5, "--columns", 3))
    assert picture.format == "PNG"
    assert picture.width == 3 * (180 + 14) + 14
    pixels = np.asarray(picture).astype(int)
    shown = {tuple(colour) for colour in np.unique(pixels[: HEIGHT // 2].reshape(-1, 3), axis=0).tolist()}
    assert len({colour for colour in shown if colour[1:] == (60, 90)}) == 3
    assert (pixels.min(axis=2) < 60).sum() > 200, "no captions"
    tall = Image.open(run(dataset.directory, tmp_path / "tall.JPG", "--count", 6, "--columns", 1))
    assert (tall.format, tall.width) == ("JPEG", 180 + 2 * 14)
    assert tall.height > 6 * HEIGHT


def test_a_row_holds_one_person(dataset, tmp_path):
    options = ["--identity", "street:04", "street:01", "--columns", 2]
    pixels = np.asarray(Image.open(run(dataset.directory, tmp_path / "sheet.png", *options))).astype(int)
    assert pixels.shape[1] == 2 * 102 + 3 * 6
    colours = [pixels[6 + HEIGHT // 2, left, 0] for left in (6 + 51, 6 + 102 + 6 + 51)]
    assert colours == [12 * 12, 12 * 13]
    reds = pixels[pixels[:, 57, 1] == 60][:, 57, 0]
    assert list(dict.fromkeys(reds.tolist())) == [12 * 12, 12 * 3]


def test_the_same_seed_shows_the_same_and_another_others(dataset, tmp_path, capsys):
    files, keys = [], []
    for name, seed in (("a.html", 1), ("b.html", 1), ("c.html", 2), ("a.png", 1), ("b.png", 1)):
        files.append(run(dataset.directory, tmp_path / name, "--count", 5, "--seed", seed, "--json").read_bytes())
        keys.append(shown_keys(capsys))
    assert files[0] == files[1]
    assert files[3] == files[4]
    assert keys[0] == keys[3] == sorted(set(keys[0]))
    assert keys[2] != keys[0]
    assert len(keys[0]) == 5


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--split", "val"], [15, 16, 17]),
        (["--identity", "street:05", "street:02"], [15, 16, 17, 6, 7, 8]),
        (["--identity", "street:02", "--columns", "2"], [6, 7]),
        (["--key", "made-000000009", "made-000000002"], [9, 2]),
        (["--by", "identity", "--count", "99", "--columns", "1"], [0, 3, 6, 9, 12, 15]),
    ],
)
def test_samples_are_shown_by_split_by_person_and_by_key(dataset, tmp_path, capsys, options, keys):
    run(dataset.directory, tmp_path / "page.html", "--json", *options)
    assert shown_keys(capsys) == keys


@given(st.integers(1, 30), st.integers(0, 1 << 32))
def test_every_draw_is_of_distinct_samples_in_packing_order(dataset, count, seed):
    [places] = choose(dataset, Choice(count=count, seed=seed)).values()
    assert places == sorted(set(places))
    assert len(places) == min(count, len(PEOPLE))
    assert all(0 <= row < dataset.shards[number].samples for number, row in places)


def test_only_what_is_shown_is_read(dataset, tmp_path, monkeypatch):
    read = []
    original = LocalStore.read

    def counted(store, name, offset=0, size=-1):
        data = original(store, name, offset, size)
        read.append((name, len(data)))
        return data

    monkeypatch.setattr(LocalStore, "read", counted)
    show(dataset.store, tmp_path / "page.html", Choice(keys=("made-000000005",)))
    tars = [(name, size) for name, size in read if name.endswith(".tar")]
    assert len(tars) == 1
    assert tars[0][1] < len(PEOPLE[5].image) + 5 * 512


def test_a_bucket_shows_what_a_folder_does(dataset, tmp_path, moto_server):
    bucket = write_dataset(fresh_place(moto_server), PEOPLE, shard_samples=4).store
    for name in ("page.html", "sheet.png"):
        for store, out in ((dataset.store, tmp_path / f"folder-{name}"), (bucket, tmp_path / f"bucket-{name}")):
            show(store, out, Choice(count=7))
        assert (tmp_path / f"bucket-{name}").read_bytes() == (tmp_path / f"folder-{name}").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "nope"], "no split 'nope'; it has: train, val"),
        (["--identity", "street:99"], "no identity 'street:99'; one that it has: street:00"),
        (["--key", "made-1"], "no key 'made-1'; one that it has: made-000000000"),
        (["--out", "page.gif"], "neither a page nor a picture"),
        (["--out", "nowhere/page.html"], "there is no folder"),
        (["--out", "tall.jpg", "--columns", "1"], "pixels; show fewer images, or write a page (.html)"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_code_2(dataset, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharding.show.contact_sheet.LARGEST", 3000)
    assert main(["show", str(dataset.directory), "--out", "page.html", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("sharding: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_not_as_packed_is_told(tmp_path, capsys):
    place = tmp_path / "made"
    dataset = write_dataset(place, PEOPLE[:3])
    tar = place / f"{dataset.shards[0].name}.tar"
    tar.write_bytes(tar.read_bytes().replace(PEOPLE[1].image[-40:], bytes(40)))
    assert main(["show", str(place), "--out", str(tmp_path / "page.html")]) == 2
    assert "damaged at sample made-000000001 (image)" in capsys.readouterr().err


def test_an_image_that_cannot_be_decoded_is_a_grey_area(tmp_path):
    write_dataset(tmp_path / "made", [Made(person="1", captions=("A man.",), damaged=True)])
    pixels = np.asarray(Image.open(run(tmp_path / "made", tmp_path / "sheet.png")))
    assert (pixels[6 + HEIGHT // 2, 14 + 90] == 208).all()


@given(st.text(max_size=300), st.integers(1, 40))
def test_wrapped_lines_fit_and_lose_nothing_that_is_printed(text, width):
    lines = wrap(text, len, width)
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= MOST_LINES
    if lines[-1] != "…":
        printed = [c if c.isprintable() else "?" for c in text if not c.isspace()]
        assert "".join(lines).replace(" ", "") == "".join(printed)
