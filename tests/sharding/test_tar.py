"""Shards are ordinary tar files to everyone."""

import io
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.tar import TarWriter, header

MEMBERS = [("a-000000001.jpg", b"x" * 700), ("a-000000001.txt", b""), ("a-000000001.json", b"y" * 512)]


def write(path, members):
    with path.open("wb") as file:
        writer = TarWriter(file)
        offsets = writer.add(*members)
        writer.finish()
    return offsets


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z0-9_-]{1,90}\.(jpg|png|txt|json)", fullmatch=True), st.binary(max_size=1500)),
        max_size=5,
    )
)
def test_tarfile_reads_back_what_was_written_at_the_offsets_returned(members):
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    offsets = writer.add(*members)
    writer.finish()
    assert writer.bytes == len(buffer.getvalue())
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        found = [(m.name, tar.extractfile(m).read(), m.offset_data) for m in tar.getmembers()]
    assert found == [(name, data, offset) for (name, data), offset in zip(members, offsets, strict=True)]


def test_gnu_tar_lists_and_extracts_a_shard(tmp_path):
    write(tmp_path / "a.tar", MEMBERS)
    listing = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", "a.tar"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert listing.stderr == ""
    assert [line.split()[:3] for line in listing.stdout.splitlines()] == [
        ["-rw-r--r--", "0/0", str(len(data))] for _, data in MEMBERS
    ]
    subprocess.run(["tar", "-xf", "a.tar"], cwd=tmp_path, check=True)
    assert [(tmp_path / name).read_bytes() for name, _ in MEMBERS] == [data for _, data in MEMBERS]


@pytest.mark.parametrize("name", ["../a.jpg", "a/b.jpg", "a.b.jpg", "", "A.jpg", "x" * 91 + ".jpg", "é.jpg"])
def test_names_that_would_merge_or_hide_samples_cannot_be_written(name):
    with pytest.raises(ValueError, match="cannot hold"):
        header(name, 1)
