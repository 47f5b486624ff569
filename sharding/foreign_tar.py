"""Tars that others wrote: where the ordinary files in them lie, from their headers alone.

Read are ustar, GNU long names and PAX headers. Such a tar may be damaged or made to harm: everything but ordinary files
and folders is refused, names stay below the folder, and what is held in memory does not grow with the tar. Readers that
end early and silently at a damaged header lose samples; here every byte up to the end of the file is accounted for.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from sharding.errors import UserError
from sharding.store import Store

BLOCK = 512
LARGEST_MEMBER = 1 << 30  # bytes; sources have lower limits of their own for images and texts
MOST_EXTENDED = 1 << 20  # bytes of PAX headers and long names before one file
MOST_IDLE = 100_000  # headers (folders, mostly) before one file
MOST_PADDING = 1 << 20  # bytes from the end mark to the end of the file; GNU tar writes records of 10 KiB
COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4", b"PK\3\4": "zip",
}  # fmt: skip
ORDINARY = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENDED = (*PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
REFUSED = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.GNUTYPE_LONGLINK: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
SPARSE = "GNU.sparse."


class TarMember(NamedTuple):
    """An ordinary file in a tar: its name, the offset of its data from the start of the tar, and its size, in bytes."""

    name: str
    offset: int
    size: int


@contextmanager
def open_tar(store: Store, name: str) -> Iterator["ForeignTar"]:
    """Open a tar of a store for reading; FileNotFoundError if there is none."""
    with store.open(name) as file:
        yield ForeignTar(file, f"{store}/{name}")


class ForeignTar:
    """A tar of unknown origin. `label` is what error messages call it."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file, self._label = file, label
        self._end = file.seek(0, 2)

    def members(self) -> Iterator[TarMember]:
        """The ordinary files, in order. Their data are passed over, not read.

        Raises UserError, naming file and byte, for a tar that is compressed, truncated or damaged, that does not end
        with its end mark, or that holds anything else than ordinary files and folders with harmless names.
        """
        self._refuse_compressed()
        extended: dict[str, str] = {}
        position = idle = extended_bytes = 0
        while (header := self._header(position)) is not None:
            data, idle = position + BLOCK, idle + 1
            if header.type in EXTENDED:
                extended_bytes += header.size
            if idle > MOST_IDLE:
                raise self._error(position, f"the {idle:,}th header in a row without a file")
            if extended_bytes > MOST_EXTENDED:
                raise self._error(position, f"more than {MOST_EXTENDED:,} bytes of headers for one file")
            if header.type in EXTENDED:
                size = self._checked_size(position, header.size)
                extended |= self._extended(position, header, data)
            else:
                name, size = self._apply(position, header, extended)
                if header.type in ORDINARY:
                    yield TarMember(name, data, size)
                    idle = extended_bytes = 0
                extended = {}
            position = data + size + -size % BLOCK
        if extended:
            raise self._error(position, "the end, where a file was announced")

    def read(self, member: TarMember) -> bytes:
        """The data of a member; it may be asked for while `members` goes on."""
        return self._read(member.offset, member.size)

    def _refuse_compressed(self) -> None:
        begin = self._read(0, min(self._end, 8))
        for magic, form in COMPRESSED.items():
            if begin.startswith(magic):
                raise UserError(f"{self._label} is compressed ({form}); unpack it first, images do not shrink anyway")

    def _header(self, position: int) -> tarfile.TarInfo | None:
        """The header at a position; None at a whole end mark."""
        if position + BLOCK > self._end:
            raise UserError(f"{self._label} ends at byte {self._end} without an end mark: truncated")
        block = self._read(position, BLOCK)
        if not block.strip(b"\0"):
            self._check_end(position)
            return None
        try:
            return ordinary_header(block) or tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._error(position, f"a damaged header ({error})") from None

    def _check_end(self, position: int) -> None:
        """UserError unless two or more blocks of zeros, and nothing else, follow up to the end of the file."""
        rest = self._end - position
        if rest < 2 * BLOCK:
            raise UserError(f"{self._label} ends at byte {self._end} without a whole end mark: truncated")
        if rest > MOST_PADDING:
            # A download that was given its full length at once looks like this, and so does a second tar behind.
            raise self._error(position, f"an end mark, but {rest:,} more bytes: damaged, or several tars in one")
        tail = self._read(position, rest)
        if tail.strip(b"\0"):
            place = position + rest - len(tail.lstrip(b"\0"))
            raise self._error(place, "data after the end mark: damaged, or several tars in one")

    def _extended(self, position: int, header: tarfile.TarInfo, data: int) -> dict[str, str]:
        """What a PAX header or a GNU long name says of the file that follows; `path` and `size` are all that counts."""
        content = self._read(data, header.size)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return {"path": content.split(b"\0")[0].decode("utf-8", "surrogateescape")}
        try:
            records = parse_pax(content)
        except ValueError:
            raise self._error(position, "a damaged PAX header") from None
        if any(keyword.startswith(SPARSE) for keyword in records):
            raise self._error(position, "a sparse file")
        told = {keyword: value for keyword, value in records.items() if keyword in ("path", "size")}
        if told and header.type == tarfile.XGLTYPE:
            raise self._error(position, f"a PAX header that gives every file the same {' and '.join(told)}")
        return told

    def _apply(self, position: int, header: tarfile.TarInfo, extended: dict[str, str]) -> tuple[str, int]:
        """Name and size of a file or folder, checked, after what extended headers said of it."""
        name, size = extended.get("path", header.name).removeprefix("./"), header.size
        if "size" in extended:
            if not (extended["size"].isascii() and extended["size"].isdecimal() and len(extended["size"]) < 20):
                raise self._error(position, "a damaged PAX header")
            size = int(extended["size"])
        if header.type in REFUSED:
            raise self._error(position, f"{REFUSED[header.type]}, {name[:80]!r}; only ordinary files are read")
        if header.type not in (*ORDINARY, tarfile.DIRTYPE):
            raise self._error(position, f"a member of unknown type, {name[:80]!r}")
        folder = header.type == tarfile.DIRTYPE
        if (fault := fault_of_name(name)) and not (folder and name in ("", ".")):
            raise self._error(position, f"{fault}, {name[:80]!r}")
        return name, 0 if folder else self._checked_size(position, size)  # a folder's size is that of no data

    def _checked_size(self, position: int, size: int) -> int:
        """The size of the data behind the header at `position`, if they may be as large and the file holds them."""
        if size < 0:
            raise self._error(position, "a damaged header (negative size)")
        if position + BLOCK + size > self._end:
            raise UserError(
                f"{self._label} ends at byte {self._end}, within a member whose data reach to byte "
                f"{position + BLOCK + size}: truncated"
            )
        if size > LARGEST_MEMBER:
            raise self._error(position, f"a member of {size:,} bytes, more than {LARGEST_MEMBER:,}")
        return size

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise UserError(f"{self._label} ends before byte {offset + size}: truncated while it was read")
        return data

    def _error(self, position: int, found: str) -> UserError:
        return UserError(f"{self._label} is refused; at byte {position} there is {found}")


def ordinary_header(block: bytes) -> tarfile.TarInfo | None:
    """Name and size in the header of an ordinary file with a short ASCII name, nearly all that there are.

    It takes 5 µs where TarInfo.frombuf takes 15. None for every other header, a damaged one among them.
    """
    size, checksum = block[124:135], block[148:154]
    ordinary = block[156] == ord("0") and not block[345] and block[135] in b"\0 " and size.isdigit()
    if not ordinary or not checksum.isdigit() or b"8" in size + checksum or b"9" in size + checksum:
        return None
    name = block[:100].partition(b"\0")[0]
    if not name.isascii() or sum(block) - sum(block[148:156]) + 8 * ord(" ") != int(checksum, 8):
        return None
    header = tarfile.TarInfo(name.decode())
    header.size = int(size, 8)
    return header


def parse_pax(content: bytes) -> dict[str, str]:
    """The records of a PAX header, `LENGTH KEYWORD=VALUE\\n` each; ValueError unless they fill it to the byte."""
    records: dict[str, str] = {}
    position = 0
    while position < len(content):
        digits = content[position : position + 10].partition(b" ")[0]
        if not digits.isdigit():
            raise ValueError("no length")
        end = position + int(digits)
        keyword, equals, value = content[position + len(digits) + 1 : end - 1].partition(b"=")
        if not keyword or not equals or content[end - 1 : end] != b"\n":
            raise ValueError("no record of that length")
        records[keyword.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position = end
    return records


def fault_of_name(name: str) -> str:
    """Why a member may not have this name; '' if it may."""
    if not name:
        return "a member without a name"
    if name.startswith("/"):
        return "an absolute name"
    if ".." in name.split("/"):
        return "a name that leads out of the folder"
    if name.isascii() and name.isprintable():
        return ""
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        return "a name with a control character"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "a name that is not UTF-8"
    return ""
