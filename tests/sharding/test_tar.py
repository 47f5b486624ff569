"""Shards are ordinary tar files to everyone, and damage never passes for the end of one."""

import io
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import UserError
from sharding.tar import BLOCK, Member, TarWriter, header, read_members, sample_bytes

MEMBERS = [("a-000000001.jpg", b"x" * 700), ("a-000000001.txt", b""), ("a-000000001.json", b"y" * 512)]


def write(path, members):
    with path.open("wb") as file:
        writer = TarWriter(file)
        offsets = [writer.add(name, data) for name, data in members]
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
    offsets = [writer.add(name, data) for name, data in members]
    writer.finish()
    assert writer.bytes == len(buffer.getvalue()) == sample_bytes([len(d) for _, d in members]) + 2 * BLOCK
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


def test_our_reader_gives_the_same_members(tmp_path):
    offsets = write(tmp_path / "a.tar", MEMBERS)
    expected = [Member(name=n, offset=o, size=len(d)) for (n, d), o in zip(MEMBERS, offsets, strict=True)]
    assert list(read_members(tmp_path / "a.tar")) == expected


def test_every_truncation_is_an_error(tmp_path):
    write(tmp_path / "a.tar", MEMBERS)
    whole = (tmp_path / "a.tar").read_bytes()
    for length in range(0, len(whole), 100):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.tar"):
            list(read_members(tmp_path / "a.tar"))


def test_every_flipped_bit_outside_the_contents_is_an_error(tmp_path):
    path = tmp_path / "a.tar"
    offsets = write(path, MEMBERS)
    whole = path.read_bytes()
    contents = {o + i for (_, data), o in zip(MEMBERS, offsets, strict=True) for i in range(len(data))}
    for position in sorted(set(range(0, len(whole), 7)) - contents):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|truncated"):
            list(read_members(path))


def test_links_and_foreign_members_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match="damaged header"):
        list(read_members(tmp_path / "a.tar"))


@pytest.mark.parametrize("name", ["../a.jpg", "a/b.jpg", "a.b.jpg", "", "A.jpg", "x" * 91 + ".jpg", "é.jpg"])
def test_names_that_would_merge_or_hide_samples_cannot_be_written(name):
    with pytest.raises(ValueError, match="cannot hold"):
        header(name, 1)
