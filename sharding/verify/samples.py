"""The samples of one shard against its index: where members should lie, their headers, hashes, padding and metadata.

Python objects are made for what is damaged only: an intact sample must not cost much more than hashing it twice.
"""

import hashlib
import json
from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharding.index import MEMBERS, Shard
from sharding.tar import BLOCK, END, LARGEST_MEMBER, header
from sharding.verify.headers import headers

if TYPE_CHECKING:
    import pyarrow

PIECE = 4 << 20  # bytes; with 1 MiB the whole is 6 % slower, with more no faster
SAID_TWICE = ("identity", "source", "split", "score", "instance_id", "width", "height", "file_path")
_said = itemgetter(*SAID_TWICE)
_TEXT, _JSON = 1, 2  # places in MEMBERS


class Affected(NamedTuple):
    """A sample that is not as packed; where the damage lies in a tar, with the member and the byte of the tar."""

    key: str
    member: str | None
    offset: int | None
    problem: str


class SampleChecker:
    """Checks the samples of a shard by their rows in the index `table`, which has the columns of `sample_schema`.

    Its keys and extensions must be such as packing gives. Members are numbered in the order of the tar: 3 · row for the
    image, then the text, then the JSON. `strays` are the rows that do not lie right between their neighbours and within
    the tar; these are to be read one by one.
    """

    def __init__(self, table: "pyarrow.Table", shard: Shard) -> None:
        self._keys: list[str] = table["key"].to_pylist()
        extensions = ((ext, "txt", "json") for ext in table["ext"].to_pylist())
        self._names = [f"{key}.{ext}" for key, three in zip(self._keys, extensions, strict=True) for ext in three]
        self._offsets, self._sizes = _interleaved(table, "offset"), _interleaved(table, "size")
        self._hashes = _interleaved(table, "sha256").tolist()
        self._said = list(zip(*(table[name].to_pylist() for name in SAID_TWICE), strict=True))
        self._words = table["caption_words"].to_pylist()
        self._ends = self._offsets + self._sizes + -self._sizes % BLOCK
        meets = np.append(0, self._ends) == np.append(self._offsets - BLOCK, shard.bytes - len(END))
        placed = meets[:-1] & meets[1:] & (self._sizes >= 0) & (self._sizes <= LARGEST_MEMBER)
        self._sound = placed.reshape(-1, len(MEMBERS)).all(axis=1).tolist()
        self.strays = [row for row, sound in enumerate(self._sound) if not sound]

    def pieces(self) -> Iterator[tuple[range, int, int]]:
        """Neighbouring rows of at most PIECE bytes, or one larger one, with where they begin and end in the tar."""
        starts = (self._offsets[:: len(MEMBERS)] - BLOCK).tolist()
        sound, ends, row = self._sound, self._ends[_JSON :: len(MEMBERS)].tolist(), 0
        while row < len(sound):
            first = row
            row += 1
            if sound[first]:
                while row < len(sound) and sound[row] and ends[row] - starts[first] <= PIECE:
                    row += 1
                yield range(first, row), starts[first], ends[row - 1]

    def extent(self, row: int) -> tuple[int, int]:
        """The bytes from the first header of a row to the last padding, wherever the index says they are."""
        three = slice(len(MEMBERS) * row, len(MEMBERS) * (row + 1))
        return int(self._offsets[three].min()) - BLOCK, int(self._ends[three].max())

    def check(self, rows: range, data: memoryview, start: int) -> list[Affected]:
        """What is wrong with these rows, if `data` are the bytes of the tar from `start` on (too few, if it ends)."""
        numbers = range(len(MEMBERS) * rows.start, len(MEMBERS) * rows.stop)
        in_piece = self._sound[rows.start] and len(data) == self._ends[numbers[-1]] - start
        suspects = self._suspects(numbers, data, start) if in_piece else numbers
        affected = [damage for number in suspects if (damage := self._damage(number, data, start))]
        torn = {damage.key for damage in affected}
        return affected + self._disagreements([row for row in rows if self._keys[row] not in torn], data, start)

    def _suspects(self, numbers: range, data: memoryview, start: int) -> list[int]:
        """The members of sound rows that are not, byte for byte, what the index says; `data` are all of theirs."""
        part, sha256 = slice(numbers.start, numbers.stop), hashlib.sha256
        sizes, begins = self._sizes[part], self._offsets[part] - start
        blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCK)
        wrong = (blocks[begins // BLOCK - 1] != headers(np.array(self._names[part], "S100"), sizes)).any(axis=1)
        behind = np.arange(BLOCK) >= BLOCK - (-sizes % BLOCK)[:, None]  # [m, bytes of the last block]: is it padding?
        wrong |= ((blocks[(self._ends[part] - start) // BLOCK - 1] != 0) & behind).any(axis=1)
        members = zip(begins.tolist(), (begins + sizes).tolist(), self._hashes[part], strict=True)
        for place, (begin, after, digest) in enumerate(members):
            if sha256(data[begin:after]).digest() != digest:
                wrong[place] = True
        return (np.flatnonzero(wrong) + numbers.start).tolist()

    def _damage(self, number: int, data: memoryview, start: int) -> Affected | None:
        """All that is wrong with a member, and where the damage begins."""
        offset, size, end = (int(column[number]) for column in (self._offsets, self._sizes, self._ends))
        name, begin, after = self._names[number], offset - start, offset + size - start
        found = []
        if begin < BLOCK or not 0 <= size <= LARGEST_MEMBER:
            found.append((offset, "the index places it where no member can be"))
        elif end - start > len(data):
            found.append((max(offset - BLOCK, start + len(data)), "cut off"))
        else:
            if bytes(data[begin - BLOCK : begin]) != header(name, size):
                found.append((offset - BLOCK, "header damaged"))
            if hashlib.sha256(data[begin:after]).digest() != self._hashes[number]:
                found.append((offset, "content differs"))
            if any(data[after : end - start]):
                found.append((offset + size, "padding not zero"))
        if not found:
            return None
        return Affected(self._keys[number // len(MEMBERS)], name, found[0][0], ", ".join(what for _, what in found))

    def _disagreements(self, rows: list[int], data: memoryview, start: int) -> list[Affected]:
        """Samples whose JSON says otherwise than the index or the text, though all three are what the index names."""
        texts, encoded = (self._contents(rows, place, data, start) for place in (_TEXT, _JSON))
        affected = []
        for row, text, metadata in zip(rows, texts, _parsed(encoded), strict=True):
            if problem := self._disagreement(row, text, metadata):
                number = len(MEMBERS) * row + _JSON
                affected.append(Affected(self._keys[row], self._names[number], int(self._offsets[number]), problem))
        return affected

    def _contents(self, rows: list[int], place: int, data: memoryview, start: int) -> list[memoryview]:
        """One of the members of each row."""
        numbers = np.array(rows, np.int64) * len(MEMBERS) + place
        begins = self._offsets[numbers] - start
        afters = begins + self._sizes[numbers]
        return [data[begin:after] for begin, after in zip(begins.tolist(), afters.tolist(), strict=True)]

    def _disagreement(self, row: int, text: memoryview, metadata: Any) -> str | None:
        try:
            captions = metadata["captions"]
            words = [len(caption.split()) for caption in captions]
            if _said(metadata) == self._said[row] and words == self._words[row]:
                return None if text == (captions[0].encode() if captions else b"") else "text is not the first caption"
        except (ValueError, KeyError, TypeError, AttributeError):
            return "not the metadata of a sample"
        wrong = [name for name, said in zip(SAID_TWICE, self._said[row], strict=True) if metadata[name] != said]
        return f"the index says otherwise: {', '.join(wrong or ['words of the captions'])}"


def _parsed(encoded: list[memoryview]) -> list[Any]:
    """JSON values, None for what is none; all at once, in half the time, if that can be."""
    try:
        values = json.loads(b"[" + b",".join(encoded) + b"]")
        if len(values) == len(encoded):
            return list(values)
    except (ValueError, RecursionError):
        pass
    return [_parsed_singly(one) for one in encoded]


def _parsed_singly(encoded: memoryview) -> Any:
    try:
        return json.loads(bytes(encoded))
    except (ValueError, RecursionError):
        return None


def _interleaved(table: "pyarrow.Table", what: str) -> NDArray[Any]:
    """A column of each member, in the order of the tar. [3 · samples]"""
    columns = [table[f"{member}_{what}"].to_numpy(zero_copy_only=False) for member in MEMBERS]
    return np.stack(columns, axis=1).ravel()
