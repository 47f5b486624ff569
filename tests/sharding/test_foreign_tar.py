"""Foreign tars are read to the last byte or refused: no damage passes in silence, nothing leaves the folder."""

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding import foreign_tar
from sharding.errors import UserError
from sharding.foreign_tar import BLOCK, ForeignTar, TarMember, open_tar, ordinary_header, parse_pax
from sharding.store import LocalStore

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PART = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/."), min_size=1, max_size=120)
NAME = st.lists(PART, min_size=1, max_size=3).map("/".join)


def entry(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(*entries, form=tarfile.USTAR_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(data):
    tar = ForeignTar(io.BytesIO(data), "x.tar")
    return [(member.name, tar.read(member)) for member in tar.members()]


def assert_refused(data, reason):
    with pytest.raises(UserError, match=reason) as caught:
        list(ForeignTar(io.BytesIO(data), "x.tar").members())
    assert str(caught.value).startswith("x.tar ")
    assert "\n" not in str(caught.value)


FILES = [("a.jpg", b"image"), ("a.txt", b""), ("folder/b.jpg", b"x" * 1500)]
SOUND = tar_of(*(entry(name, data) for name, data in FILES))


def test_members_are_found_in_a_store(tmp_path):
    (tmp_path / "x.tar").write_bytes(SOUND)
    with open_tar(LocalStore(tmp_path), "x.tar") as tar:
        members = list(tar.members())
        assert members == [
            TarMember("a.jpg", 512, 5),
            TarMember("a.txt", 1536, 0),
            TarMember("folder/b.jpg", 2048, 1500),
        ]
        assert tar.read(members[0]) == b"image"


@given(names=st.lists(NAME, max_size=4), form=st.sampled_from(["gnu", "pax"]))
@settings(max_examples=60)
def test_long_and_foreign_names_are_read_as_they_were_written(names, form):
    files = [(name, bytes([number])) for number, name in enumerate(names)]
    assert read(tar_of(*(entry(*file) for file in files), form=FORMATS[form])) == files


ANY_NAME = st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=120)


@given(name=ANY_NAME, size=st.integers(0, 8**11), form=st.sampled_from(sorted(FORMATS)))
def test_ordinary_headers_are_read_as_tarfile_reads_them(name, size, form):
    try:
        block = entry(name, size=size)[0].tobuf(FORMATS[form])[-BLOCK:]
    except ValueError:  # ustar has no room for such a name or size
        return
    ours, theirs = ordinary_header(block), tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if name.isascii() and len(name) <= 100 and size < 8**11:
        assert ours is not None
    assert ours is None or (ours.name, ours.size, ours.type) == (theirs.name, theirs.size, theirs.type)


def test_gnu_tars_own_archives_are_read(tmp_path):
    (tmp_path / "in" / ("d" * 90)).mkdir(parents=True)
    files = {"a.jpg": b"1", f"{'d' * 90}/{'n' * 200}.txt": b"2"}
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    for form in ("gnu", "posix", "v7"):
        shown = files if form != "v7" else {"a.jpg": b"1"}
        create = ["tar", f"--format={form}", "-C", tmp_path / "in", "-cf", tmp_path / "x.tar"]
        subprocess.run([*create, *(shown if form == "v7" else ["."])], check=True)
        assert dict(read((tmp_path / "x.tar").read_bytes())) == shown


def test_every_truncation_is_found():
    for end in range(0, len(SOUND) - 2 * BLOCK, 64):
        if SOUND[end - 1024 : end].strip(b"\0") or end < 1024:
            assert_refused(SOUND[:end], "truncated")


def test_no_member_is_given_whose_data_are_cut():
    members = ForeignTar(io.BytesIO(SOUND[:3000]), "x.tar").members()
    assert [next(members).name, next(members).name] == ["a.jpg", "a.txt"]
    with pytest.raises(UserError, match="ends at byte 3000, within a member whose data reach to byte 3548: truncated"):
        next(members)


def test_no_flipped_bit_of_a_header_passes_unless_it_changes_nothing():
    unnoticed = set()
    for header in (0, 1024, 1536):
        for bit in range(8 * BLOCK):
            damaged = bytearray(SOUND)
            damaged[header + bit // 8] ^= 1 << (bit % 8)
            try:
                assert read(bytes(damaged)) == FILES
                unnoticed.add(bit // 8)
            except UserError:
                continue
    assert unnoticed <= {148, 154, 155}  # of the checksum: a zero in front, the NUL and the blank behind it


@given(st.binary(max_size=3 * BLOCK), st.integers(0, 5))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(noise, block):
    data = bytearray(SOUND)
    data[block * BLOCK : block * BLOCK + len(noise)] = noise
    with_checksums = bytearray(data)
    for header in range(0, 4 * BLOCK, BLOCK):  # beyond the checksum lie the fields
        part = with_checksums[header : header + BLOCK]
        part[148:156] = b" " * 8
        with_checksums[header + 148 : header + 156] = b"%06o\0 " % sum(part)
    for damaged in (data, with_checksums):
        try:
            for member in ForeignTar(io.BytesIO(bytes(damaged)), "x.tar").members():
                assert 0 < member.offset <= member.offset + member.size <= len(data)
        except UserError:
            pass


def test_a_zeroed_header_is_no_end_mark():
    assert_refused(SOUND[:1024] + bytes(BLOCK) + SOUND[1536:], "data after the end mark")
    assert_refused(SOUND[:1024] + bytes(3 * BLOCK) + SOUND[2560:], "data after the end mark")


def test_two_tars_in_one_file_and_a_file_filled_up_with_zeros_are_refused():
    assert_refused(SOUND + SOUND, "several tars in one")
    assert_refused(SOUND + bytes(2 << 20), "more bytes")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_compressed_tars_are_refused(pack):
    assert_refused(pack(SOUND), r"compressed \((gzip|bzip2|xz)\)")


@pytest.mark.parametrize("magic", [b"\x28\xb5\x2f\xfd", b"PK\3\4"], ids=["zstd", "zip"])
def test_other_archives_are_refused(magic):
    assert_refused(magic + bytes(2000), r"compressed \((zstd|zip)\)")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"V", "unknown type"),
    ],
)
def test_only_ordinary_files_are_read(kind, reason):
    assert_refused(
        tar_of(entry("ok.jpg"), entry("a.jpg", type=kind, linkname="/etc/passwd")), f"at byte 512 .*{reason}"
    )


def test_a_link_to_a_long_name_is_refused():
    data = tar_of(entry("a.jpg", type=tarfile.SYMTYPE, linkname="x" * 200), form=tarfile.GNU_FORMAT)
    assert_refused(data, "a link")


def test_sparse_files_in_pax_headers_are_refused(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 4096)
    command = ["tar", "--sparse", "--hole-detection=raw", "--format=posix", "-C", tmp_path, "-cf", tmp_path / "x.tar"]
    subprocess.run([*command, "a.jpg"], check=True)
    assert_refused((tmp_path / "x.tar").read_bytes(), "sparse")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/a.jpg", "absolute"),
        ("../a.jpg", "leads out"),
        ("a/../../b.jpg", "leads out"),
        ("a\nb.jpg", "control character"),
        ("a\x1b[31mb.jpg", "control character"),
        ("a\x85.jpg", "control character"),
    ],
)
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_harmful_names_are_refused(name, reason, form):
    for length in ("", "d" * 150 + "/"):  # the second lies in a GNU long name or a PAX header
        full = f"/{length}{name}" if reason == "absolute" else length + name
        assert_refused(tar_of(entry(full), form=FORMATS[form]), reason)


def test_names_that_are_not_utf8_are_refused():
    assert_refused(tar_of(entry("a\udcff.jpg"), form=tarfile.GNU_FORMAT), "not UTF-8")


def test_members_over_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_tar, "LARGEST_MEMBER", 1000)
    assert_refused(SOUND, "at byte 1536 there is a member of 1,500 bytes")


def test_pax_sizes_are_heeded_and_damaged_ones_refused():
    sized = tar_of(entry("a.jpg", b"image", pax_headers={"size": "5"}), form=tarfile.PAX_FORMAT)
    assert read(sized) == [("a.jpg", b"image")]
    for size, reason in (("5000000", "truncated"), ("-1", "damaged PAX"), ("9" * 30, "damaged PAX")):
        assert_refused(tar_of(entry("a.jpg", b"image", pax_headers={"size": size}), form=tarfile.PAX_FORMAT), reason)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE])
def test_negative_sizes_are_refused(kind):
    header = entry("a.jpg", type=kind)[0]
    header.size = -512
    assert_refused(header.tobuf(tarfile.GNU_FORMAT) + SOUND, "negative size")


def test_the_size_of_a_folder_is_that_of_no_data():
    folder = entry("d", type=tarfile.DIRTYPE)[0]
    folder.size = 4096
    assert read(folder.tobuf(tarfile.USTAR_FORMAT) + SOUND) == FILES


def test_a_global_pax_header_may_comment_but_not_name():
    def with_global(headers):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
            tar.addfile(entry("a.jpg")[0])
        return buffer.getvalue()

    assert read(with_global({"comment": "a1b2"})) == [("a.jpg", b"")]
    assert_refused(with_global({"path": "b.jpg"}), "every file the same path")


def test_large_and_endless_headers_are_refused_without_reading_on(monkeypatch):
    long = entry("a.jpg", pax_headers={"comment": "x" * (2 << 20)})
    assert_refused(tar_of(long, form=tarfile.PAX_FORMAT), "more than 1,048,576 bytes of headers")
    claimed = tarfile.TarInfo("PaxHeader")
    claimed.type, claimed.size = tarfile.XHDTYPE, 1 << 40
    assert_refused(claimed.tobuf(tarfile.GNU_FORMAT) + bytes(4096), "more than 1,048,576 bytes of headers")
    monkeypatch.setattr(foreign_tar, "MOST_IDLE", 10)
    folders = [entry(f"d{number}", type=tarfile.DIRTYPE) for number in range(8)]
    assert read(tar_of(*folders, entry("a.jpg"), *folders)) == [("a.jpg", b"")]
    assert_refused(tar_of(*folders, *folders), "11th header in a row without a file")


def test_an_announced_file_that_does_not_come_is_missed():
    data = tar_of(entry("d" * 150), form=tarfile.GNU_FORMAT)
    assert_refused(data[: 2 * BLOCK] + bytes(2 * BLOCK), "where a file was announced")


@pytest.mark.parametrize(
    "record", [b"5 a=", b"0 a=b\n", b"9 a=b\n", b"6 a=bc", b"x a=b\n", b"6 abc\n", b"7 a=b\n\n5 =", b"6"]
)
def test_damaged_pax_records_are_refused(record):
    with pytest.raises(ValueError, match=r"no (length|record of that length)"):
        parse_pax(record)


def test_memory_does_not_grow_with_the_tar(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3000):
            tar.addfile(entry(f"{'long' * 30}{number:09d}.jpg")[0])
        info, data = entry("last.bin", bytes(8 << 20))
        tar.addfile(info, io.BytesIO(data))
    with open_tar(LocalStore(tmp_path), "x.tar") as opened:
        tracemalloc.start()
        assert sum(1 for _ in opened.members()) == 3001
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200_000
