"""Reading JSON annotations of any size row by row: a top-level list (`json_rows`) or a record per line (`json_lines`).

A list is read through a window of text. The standard library's own scanner takes one row at a time from it; where a row
runs over the window's end, more text is read and the row is scanned again. What is valid gives what `json.loads` gives.
"""

import codecs
import json
import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any, BinaryIO

from sharding.errors import UserError
from sharding.sources.annotation import kind
from sharding.store import Store

WINDOW = 1 << 20  # bytes read at a time
LARGEST_ROW = 64 << 20  # characters; a file without an end to its first row must not fill the memory
LONGEST_TOKEN = 16  # more than a literal or the escape of a character takes: what fails further from the end is wrong

_decode = JSONDecoder().raw_decode  # (text, position) → (value, end)
_space = re.compile(r"[ \t\n\r]*").match  # it always matches
_mark = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*").match  # what follows a row


def json_rows(store: Store, name: str) -> Iterator[Any]:
    """The rows of the JSON list in a file, one at a time; any encoding that `json.loads` takes.

    Raises UserError, with file and place, for what cannot be read or is no list: at once where its beginning shows
    that, else when the damage is reached.
    """
    with _open(store, name) as file:
        _List(file, f"{store}/{name}").begin()
    return _rows(store, name)


def _rows(store: Store, name: str) -> Iterator[Any]:
    with _open(store, name) as file:
        yield from _List(file, f"{store}/{name}").rows()


def _open(store: Store, name: str) -> BinaryIO:
    try:
        return store.open(name)
    except OSError as error:
        raise unreadable(f"{store}/{name}", error) from None


def unreadable(place: str, error: OSError) -> UserError:
    """The error for a file that the system refuses to give."""
    return UserError(f"{place} cannot be read: {error.strerror or error}")


class _List:
    """A window over the text of one JSON list; `at` is where the next row begins in it."""

    def __init__(self, file: BinaryIO, place: str, window: int = WINDOW) -> None:
        self.file, self.place, self.window = file, place, window
        self.text, self.at = "", 0
        self.passed = 0  # characters before the window
        self.row = 0
        self.ended = False
        first = self._read(max(window, 4))  # as many bytes tell the encoding
        self.decoder = codecs.getincrementaldecoder(json.detect_encoding(first))("surrogatepass")
        self._add(first)

    def begin(self) -> None:
        """Go to the first row, or to the bracket that closes a list without any."""
        self._skip()
        if self.at == len(self.text):
            raise UserError(f"{self.place} is not valid JSON: it is empty")
        if self.text[self.at] != "[":
            try:
                value, _ = _decode(self.text, self.at)
                found = f"holds a JSON {kind(value)}"
            except (ValueError, RecursionError):
                # An object that is larger than the window is no less an object.
                found = "holds a JSON object" if self.text[self.at] == "{" else "is not valid JSON"
            raise UserError(f"{self.place} {found}; a list of rows was expected")
        self.at += 1
        self._skip()

    def rows(self) -> Iterator[Any]:
        """Every row, in order; the window moves on as they are taken."""
        self.begin()
        if self.text[self.at : self.at + 1] == "]":
            self.at += 1
        else:
            yield from self._values()
        self._skip()
        if self.at < len(self.text):
            raise self._damaged("something follows the list", self.at)

    def _values(self) -> Iterator[Any]:
        text, at = self.text, self.at
        while True:
            try:
                value, end = _decode(text, at)
                mark = _mark(text, end)
                if mark is None:
                    raise JSONDecodeError("Expecting ',' delimiter", text, _past_space(text, end))
            except JSONDecodeError as error:
                self.at = at
                self._extend(error)
                text, at = self.text, self.at
                continue
            except RecursionError:
                raise self._damaged("nested too deeply", at) from None
            except ValueError as error:  # an integer of more digits than Python takes
                raise self._damaged(str(error), at) from None
            at = mark.end()
            yield value
            self.row += 1
            if mark[1] == "]":
                self.at = at
                return

    def _extend(self, problem: JSONDecodeError) -> None:
        """Read on where the window's end may have cut the row off; UserError where it is wrong or the file ends."""
        end = len(self.text)
        cut = problem.msg.startswith("Unterminated string") or problem.pos >= end
        if not cut and (self.ended or problem.pos < end - LONGEST_TOKEN):
            raise self._damaged(problem.msg, problem.pos)
        if self.ended:
            raise UserError(f"{self.place} is not valid JSON: it is cut off at row {self.row:,}")
        pending = end - self.at
        if pending > LARGEST_ROW:
            raise self._damaged(f"a row of more than {LARGEST_ROW:,} characters", self.at)
        self._forget()
        # As much again as the row already has: a long one is scanned a few times, not once a window.
        self._add(self._read(max(self.window, pending)))
        self._skip()

    def _skip(self) -> None:
        """Go past white space, wherever it ends."""
        while True:
            self.at = _past_space(self.text, self.at)
            if self.at < len(self.text) or self.ended:
                return
            self._forget()
            self._add(self._read(self.window))

    def _forget(self) -> None:
        self.passed += self.at
        self.text, self.at = self.text[self.at :], 0

    def _read(self, size: int) -> bytes:
        try:
            return self.file.read(size)
        except OSError as error:
            raise unreadable(self.place, error) from None

    def _add(self, data: bytes) -> None:
        self.ended = not data
        try:
            self.text += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            encoding = "UTF-8" if error.encoding.startswith("utf-8") else error.encoding
            raise UserError(f"{self.place} is not valid JSON: not {encoding} after row {self.row:,}") from None

    def _damaged(self, what: str, position: int) -> UserError:
        place = f"character {self.passed + position:,}, row {self.row:,}"
        return UserError(f"{self.place} is not valid JSON at {place}: {what}")


def _past_space(text: str, at: int) -> int:
    found = _space(text, at)
    return found.end() if found else at
