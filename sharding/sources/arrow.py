"""Where the images of an Arrow IPC file lie: the byte range of every value of its `image` column.

pyarrow gives values, not their places, and to get one it reads the whole column. The places stand in the file's own
metadata (flatbuffers, whose layout the Arrow columnar format fixes), so that is read here: of the images themselves
nothing but the table of their offsets. Both forms are read: the file form, and the stream form that Hugging Face's
`datasets` writes. `luperson_t.py` reads the text columns beside them with pyarrow.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sharding.errors import UserError
from sharding.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

FILE_MAGIC = b"ARROW1"
CONTINUATION = b"\xff\xff\xff\xff"  # before a message's length, in all files since Arrow 0.15
RECORD_BATCH = 3  # the kind of message, in Message.fbs
BLOCK, BUFFER = struct.Struct("<qixxxxq"), struct.Struct("<qq")


class DamagedArrow(Exception):
    """The file's metadata makes no sense; the message says what was found."""


class Batch(NamedTuple):
    """A record batch: its rows, and (position in the file, size) of each of its buffers in bytes."""

    rows: int
    buffers: tuple[tuple[int, int], ...]
    compressed: bool


def is_file_form(store: Store, name: str) -> bool:
    """Whether it is the file form of Arrow IPC, with an index of its batches at the end."""
    return store.size(name) > len(FILE_MAGIC) and store.read(name, 0, len(FILE_MAGIC)) == FILE_MAGIC


def batches(store: Store, name: str) -> Iterator[Batch]:
    """The record batches of a file, in order; DamagedArrow where the metadata makes no sense."""
    size = store.size(name)
    messages = _of_file(store, name, size) if is_file_form(store, name) else _of_stream(store, name, size)
    try:
        for metadata, body in messages:
            message = _Table.root(metadata)
            if message.byte(1) == RECORD_BATCH:
                yield _batch(message.table(2), body, size)
    except struct.error:
        raise DamagedArrow("its metadata points outside itself") from None


def _of_file(store: Store, name: str, size: int) -> Iterator[tuple[bytes, int]]:
    """(metadata, position of the body) of every record batch that the footer lists."""
    (length,) = struct.unpack("<i", store.read(name, size - 10, 4))
    if not 0 < length <= size:
        raise DamagedArrow("its footer is cut off")
    footer = store.read(name, size - 10 - length, length)
    for position, prefixed, _ in BLOCK.iter_unpack(_Table.root(footer).vector(3, BLOCK.size)):
        data = store.read(name, position, prefixed)
        yield data[8 if data.startswith(CONTINUATION) else 4 :], position + prefixed


def _of_stream(store: Store, name: str, size: int) -> Iterator[tuple[bytes, int]]:
    """(metadata, position of the body) of every message, from the first to the mark that ends the stream.

    A stream without that mark was not written to its end, or not copied to it.
    """
    position = 0
    while position + 8 <= size:
        prefix = store.read(name, position, 8)
        begin = position + (8 if prefix.startswith(CONTINUATION) else 4)
        (length,) = struct.unpack("<i", prefix[4:] if prefix.startswith(CONTINUATION) else prefix[:4])
        if length == 0:
            return
        if length < 0 or begin + length > size:
            break
        metadata, body = store.read(name, begin, length), begin + length
        following = body + _Table.root(metadata).long(3)
        if not body <= following <= size:
            break
        yield metadata, body
        position = following
    raise DamagedArrow(f"it is cut off after byte {position:,}")


def _batch(table: "_Table", body: int, size: int) -> Batch:
    buffers = tuple((body + begin, length) for begin, length in BUFFER.iter_unpack(table.vector(2, BUFFER.size)))
    rows = table.long(0)
    if rows < 0 or any(length < 0 or begin < body or begin + length > size for begin, length in buffers):
        raise DamagedArrow("it is shorter than its metadata says")
    return Batch(rows=rows, buffers=buffers, compressed=table.has(3))


@dataclass(frozen=True)
class _Table:
    """A flatbuffers table: its fields by number, at places that its own small table of offsets tells."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, struct.unpack_from("<I", data)[0])

    def _field(self, number: int) -> int:
        """The place of a field, or 0 where it is left out."""
        offsets = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        slot = 4 + 2 * number
        if slot >= struct.unpack_from("<H", self.data, offsets)[0]:
            return 0
        (offset,) = struct.unpack_from("<H", self.data, offsets + slot)
        return self.at + offset if offset else 0

    def has(self, number: int) -> bool:
        return self._field(number) != 0

    def byte(self, number: int) -> int:
        at = self._field(number)
        return int(struct.unpack_from("<B", self.data, at)[0]) if at else 0

    def long(self, number: int) -> int:
        at = self._field(number)
        return int(struct.unpack_from("<q", self.data, at)[0]) if at else 0

    def table(self, number: int) -> "_Table":
        at = self._field(number)
        return _Table(self.data, at + struct.unpack_from("<I", self.data, at)[0])

    def vector(self, number: int, item: int) -> bytes:
        """The items of a vector of structs of `item` bytes each."""
        at = self._field(number)
        if not at:
            return b""
        begin = at + struct.unpack_from("<I", self.data, at)[0]
        (count,) = struct.unpack_from("<I", self.data, begin)
        data = self.data[begin + 4 : begin + 4 + count * item]
        if len(data) < count * item:
            raise struct.error
        return data


@dataclass(frozen=True, kw_only=True)
class ImageColumn:
    """Which buffers of a batch hold the images: `validity` (of the value, and of the struct around it), then `values`.

    `values` is the number of the buffer of offsets, of `width` bytes each; that of the bytes follows it.
    """

    validity: tuple[int, ...]
    values: int
    width: int

    @classmethod
    def of(cls, schema: "pyarrow.Schema", place: str) -> "ImageColumn":
        """That of the column `image`: binary, or the struct of `bytes` and `path` that `datasets` keeps images in."""
        import pyarrow as pa

        index = schema.get_field_index("image")
        first = sum(_buffers(column.type, place) for column in list(schema)[:index])
        kind = schema.field(index).type
        outer: tuple[int, ...] = ()
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            inside = kind.get_field_index("bytes")
            outer = (first,)
            first += 1 + sum(_buffers(kind.field(number).type, place) for number in range(inside))
            kind = kind.field(inside).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise UserError(f"{place} has a column image of type {kind}; binary was expected")
        width = 8 if pa.types.is_large_binary(kind) else 4
        return cls(validity=(*outer, first), values=first + 1, width=width)

    def extents(self, store: Store, name: str, batch: Batch) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """Of every row: the position [rows] and size [rows] of its image in bytes (int64), and whether it has one."""
        import numpy as np

        rows, present = batch.rows, np.ones(batch.rows, bool)
        if rows == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), present
        if len(batch.buffers) < self.values + 2:
            raise DamagedArrow("a batch has too few buffers")
        offsets = np.frombuffer(
            _head(store, name, batch.buffers[self.values], (rows + 1) * self.width), f"<i{self.width}"
        )
        start, size = batch.buffers[self.values + 1]
        sizes = np.diff(offsets.astype(np.int64))
        if offsets[0] < 0 or (sizes < 0).any() or offsets[-1] > size:
            raise DamagedArrow("its offsets of images make no sense")
        for number in self.validity:
            if batch.buffers[number][1]:  # left out where nothing is null
                bits = np.frombuffer(_head(store, name, batch.buffers[number], (rows + 7) // 8), np.uint8)
                present &= np.unpackbits(bits, bitorder="little")[:rows].astype(bool)
        return start + offsets[:-1].astype(np.int64), sizes, present


def _head(store: Store, name: str, buffer: tuple[int, int], size: int) -> bytes:
    """The first `size` bytes of a buffer; behind them is padding."""
    position, length = buffer
    if length < size:
        raise DamagedArrow("a batch has a buffer too short for its rows")
    return store.read(name, position, size)


def _buffers(kind: "pyarrow.DataType", place: str) -> int:
    """How many buffers a column of that type has in a batch."""
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _buffers(kind.storage_type, place)
    if types.is_null(kind):
        return 0
    if types.is_dictionary(kind):
        return 2  # numbers; the values come in messages of their own
    if types.is_union(kind) or types.is_run_end_encoded(kind) or "view" in str(kind):
        raise UserError(f"{place} has a column of type {kind} before its images, which is not read")
    own = 2
    if types.is_struct(kind) or types.is_fixed_size_list(kind):
        own = 1
    elif types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        own = 3
    return own + sum(_buffers(kind.field(number).type, place) for number in range(kind.num_fields))
