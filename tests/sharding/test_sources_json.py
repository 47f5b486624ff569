"""JSON lists are read through a window and give what `json.loads` gives, or one line that names file and place."""

import io
import json
import tracemalloc
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import UserError
from sharding.sources.json_rows import LONGEST_TOKEN, _List, json_rows
from sharding.store import LocalStore

texts = st.text(st.one_of(st.characters(codec=None), st.sampled_from('"\\/\ud83d\ude00\ud800 ,[]{}')), max_size=20)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.just(10**400))
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
space = st.text(" \t\r\n", max_size=3)


@st.composite
def written(draw):
    """The text of a JSON list as some program or other writes it."""
    indent = draw(st.sampled_from([None, 0, 2, "\t"]))
    separators = draw(st.sampled_from([None, (",", ":"), (" , ", " : ")]))
    rows = draw(st.lists(values, max_size=5))
    text = json.dumps(rows, indent=indent, separators=separators, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return draw(space) + text + draw(space)


def outcome(read):
    """The rows as text (NaN is no equal of itself), or None where they are refused."""
    try:
        rows = read()
    except (ValueError, RecursionError, UserError):
        return None
    return repr(rows) if isinstance(rows, list) else None


def through_window(data, window):
    return list(_List(io.BytesIO(data), "place", window).rows())


@settings(max_examples=300)
@given(written(), st.integers(1, 60), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"]))
def test_a_list_gives_what_loading_it_whole_gives_whatever_the_window(text, window, encoding):
    data = text.encode(encoding, "surrogatepass")
    assert outcome(lambda: through_window(data, window)) == outcome(lambda: json.loads(data))


@settings(max_examples=400)
@given(written(), st.integers(1, 60), st.data())
def test_a_damaged_list_is_refused_exactly_where_loading_it_whole_refuses_it(text, window, draw):
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    place = draw.draw(st.integers(0, len(data)))
    match draw.draw(st.sampled_from(["cut", "put in", "change"])):
        case "cut":
            del data[place:]
        case "put in":
            data[place:place] = draw.draw(
                st.sampled_from([b",", b"]", b"[", b"{", b'"', b"1", b"-", b"e", b"\x80", b" "])
            )
        case "change" if place < len(data):
            data[place] = draw.draw(st.integers(1, 127))
    damaged = bytes(data)
    assert outcome(lambda: through_window(damaged, window)) == outcome(lambda: json.loads(damaged))


@pytest.mark.parametrize("row", ["-Infinity", "NaN", "1e5", "12.5e-10", "true", '"\\ud83d\\ude00"', '"\\\\"', "-0"])
def test_no_token_is_torn_by_the_window(row):
    for padding in range(LONGEST_TOKEN + 4):
        data = f"[{' ' * padding}{row},{row}]".encode()
        for window in range(1, 24):
            assert repr(through_window(data, window)) == repr(json.loads(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a" 2}]', "at character 16, row 1: Expecting ':' delimiter"),
        ('[{"a": 1}, {"a": 2}', "it is cut off at row 1"),
        ("[1, 2", "it is cut off at row 1"),
        ("[1, 2,]", "at character 6, row 2: Expecting value"),
        ("[1 2]", "at character 3, row 0: Expecting ',' delimiter"),
        ("[1, 2] 3", "at character 7, row 2: something follows the list"),
        (f"[1, {'[' * 100_000}", "nested too deeply"),
        (f"[1, {'9' * 5000}]", "row 1: Exceeds the limit"),
        (f'["\x80", {"1, " * 100}', "not UTF-8"),
        ("", "it is empty"),
        (" 3", "holds a JSON integer; a list of rows was expected"),
        ('{"rows": [', "holds a JSON object; a list of rows was expected"),
    ],
)
def test_damage_is_told_in_one_line_with_file_and_place(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        list(json_rows(LocalStore(tmp_path), "a.json"))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/a.json ")
    assert "\n" not in str(error.value)


def test_damage_is_told_without_reading_to_the_end(tmp_path):
    (tmp_path / "a.json").write_text('[{"a" 1}' + " " * (8 << 20) + "]")
    file = (tmp_path / "a.json").open("rb")
    with pytest.raises(UserError, match="character 6, row 0"):
        list(_List(file, "place").rows())
    assert file.tell() <= 2 << 20


def test_a_row_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sharding.sources.json_rows.LARGEST_ROW", 1 << 16)
    (tmp_path / "a.json").write_text('["' + "x" * (4 << 20))
    with pytest.raises(UserError, match="a row of more than 65,536 characters"):
        list(json_rows(LocalStore(tmp_path), "a.json"))


def test_memory_does_not_grow_with_the_list(tmp_path):
    row = json.dumps({"file_path": "x.jpg", "captions": ["word " * 60] * 2})
    (tmp_path / "a.json").write_text(f"[{', '.join([row] * 20_000)}]")  # 13 MB
    rows = json_rows(LocalStore(tmp_path), "a.json")
    list(islice(rows, 10))
    tracemalloc.start()
    assert sum(1 for _ in rows) == 20_000 - 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20
