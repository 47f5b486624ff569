"""One object of a bucket and how it is read, whole, in part or as a file; what is cut off is asked for again."""

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

from sharding.errors import UserError
from sharding.s3_client import FAILURES, client, explained, one_line, status_and_code

READ_AHEAD = 8 << 20
PAUSES = (0.1, 0.4, 1.6)  # seconds, before whatever boto3 does not repeat by itself is tried again
BROKEN = (BotoCoreError, HTTPError)  # what reading the body of an answer raises
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class S3Object:
    """An object, or a key that has none; `place` is its name in messages, and `endpoint` None at Amazon's."""

    endpoint: str | None
    bucket: str
    key: str
    place: str

    @contextmanager
    def asking(self) -> Iterator[Any]:
        """The client. What it raises becomes FileNotFoundError, UserError or another OSError, in one line."""
        try:
            yield client(self.endpoint)
        except FAILURES as error:
            raise explained(error, self.place, self.bucket, self.endpoint) from None

    def head(self) -> dict[str, Any]:
        """Size (ContentLength), ETag and Metadata."""
        with self.asking() as s3:
            answer = dict(s3.head_object(Bucket=self.bucket, Key=self.key))
        if "ETag" not in answer:
            raise UserError(f"{self.place}: {self.endpoint} does not answer as S3 does; check the endpoint")
        return answer

    def fetch(self, offset: int, size: int, tag: str | None = None) -> bytes:
        """`size` bytes (not 0) from `offset` on, or all that follow (−1); OSError where there are fewer.

        If a tag is given, of the version with this tag only. boto3 repeats requests that get no answer, but not those
        whose answer is cut off: that is done here.
        """
        wanted = f"bytes={offset}-{offset + size - 1 if size > 0 else ''}"
        condition = {"IfMatch": tag} if tag else {}
        problem = ""
        for pause in (0.0, *PAUSES):
            time.sleep(pause)
            with self.asking() as s3:
                try:
                    answer = s3.get_object(Bucket=self.bucket, Key=self.key, Range=wanted, **condition)
                except ClientError as error:
                    status, _ = status_and_code(error)
                    if status == 412:
                        raise OSError(f"{self.place} was overwritten while it was read") from None
                    if status != 416:
                        raise
                    if size < 0:
                        return b""
                    raise OSError(f"{self.place} ends before byte {offset + size}") from None
                expected = self._expected(answer, offset, size)
                try:
                    data = answer["Body"].read()
                    if len(data) != expected:
                        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
                    return bytes(data)
                except BROKEN as error:
                    problem = one_line(error)
        raise OSError(f"{self.place}: {1 + len(PAUSES)} answers in a row were cut off ({problem})")

    def _expected(self, answer: dict[str, Any], offset: int, size: int) -> int:
        """How many bytes an answer must hold; OSError where the file is too short or the answer is to another question.

        A service that knows no ranges sends the whole file and no Content-Range.
        """
        found = RANGE.fullmatch(answer.get("ContentRange", ""))
        first, total = (int(found[1]), int(found[2])) if found else (0, int(answer["ContentLength"]))
        if total < offset + size:
            raise OSError(f"{self.place} ends before byte {offset + size}")
        if first != offset or (not found and 0 < size < total):
            raise OSError(f"{self.place}: the service sends other bytes than it is asked for")
        return size if size > 0 else total - offset


class WindowedFile(io.RawIOBase):
    """An object as a file: READ_AHEAD bytes of it are held, and what is asked of them costs no request.

    A BufferedReader alone would not do: a TextIOWrapper above it asks for 8 KiB at a time, each a request. All bytes
    are of one version of the object; OSError once it is overwritten.
    """

    def __init__(self, source: S3Object) -> None:
        head = source.head()
        self._source = source
        self._size, self._tag = int(head["ContentLength"]), str(head["ETag"])
        self._position = self._start = 0
        self._window = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; no request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """At least one byte unless at the end, from the window or from a new one that begins here."""
        if not self._start <= self._position < self._start + len(self._window):
            self._window = self._fetch(min(max(len(buffer), READ_AHEAD), self._size - self._position))
            self._start = self._position
        begin = self._position - self._start
        data = self._window[begin : begin + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """All that follows, in one request."""
        data = self._fetch(self._size - self._position)
        self._position += len(data)
        return data

    def _fetch(self, size: int) -> bytes:
        return self._source.fetch(self._position, size, self._tag) if size > 0 else b""
