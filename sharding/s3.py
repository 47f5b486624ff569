"""A prefix of an S3 bucket as a Store: at Amazon or at any service that speaks its protocol (Ceph, MinIO, …).

Credentials and region come from where boto3 always finds them (environment, ~/.aws, the machine's role), in every
process anew: they are in no pickle and in no message. An object can be seen when its last byte has arrived, and not
before. Of an upload cut off by SIGKILL the parts stay behind, unseen; a rule of the bucket
(AbortIncompleteMultipartUpload) clears them away.

Where a service behind https refuses uploads because it does not know boto3's checksums, set
AWS_REQUEST_CHECKSUM_CALCULATION=when_required.
"""

import io
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from botocore.exceptions import ClientError
from s3transfer.manager import TransferConfig, TransferManager

from sharding.errors import Conflict, UserError
from sharding.s3_client import missing, status_and_code
from sharding.s3_object import PAUSES, S3Object, WindowedFile
from sharding.scratch import scratch_folder

PART_BYTES = 16 << 20  # a larger file is uploaded in parts of this size
PART_UPLOADS = 4  # at once
PLACE = re.compile(r"s3://([A-Za-z0-9._-]{3,255})(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True)
class S3Store:
    """All objects of `bucket` whose keys begin with `prefix` and a slash; see Store. Threads may share it.

    `endpoint` is the URL of the service, or None for Amazon's.
    """

    bucket: str
    prefix: str
    endpoint: str | None = None

    @classmethod
    def at(cls, place: str, *, endpoint: str | None = None) -> "S3Store":
        """The store at `s3://bucket/prefix`; UserError if that or the endpoint is malformed.

        Without `endpoint`, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is taken, here and now: the store means the same
        service on machines that know nothing of this one's environment.
        """
        found = PLACE.fullmatch(place)
        if not found:
            raise UserError(f"{place} is not s3://bucket/prefix")
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        if endpoint:
            _check_endpoint(endpoint)
        return cls(found[1], (found[2] or "").strip("/"), endpoint and endpoint.rstrip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See Store; 1000 names a request. Empty objects that stand for folders are left out."""
        base = f"{self.prefix}/" if self.prefix else ""
        with S3Object(self.endpoint, self.bucket, base, str(self)).asking() as s3:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base + prefix):
                for listed in page.get("Contents", ()):
                    if not listed["Key"].endswith("/"):
                        yield listed["Key"].removeprefix(base), listed["Size"]

    def exists(self, name: str) -> bool:
        """See Store."""
        return self.tag(name) is not None

    def size(self, name: str) -> int:
        """See Store."""
        return int(self._object(name).head()["ContentLength"])

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """See Store. One request."""
        if size == 0:
            self._object(name).head()
            return b""
        return self._object(name).fetch(offset, size)

    def open(self, name: str) -> BinaryIO:
        """See Store. It is fetched in windows of 8 MiB; `read()` fetches all the rest in one request.

        Whoever overwrites the file meanwhile causes an OSError, never a mixture.
        """
        return io.BufferedReader(WindowedFile(self._object(name)))

    def write(self, name: str, data: bytes) -> None:
        """See Store."""
        target = self._object(name)
        with target.asking() as s3:
            s3.put_object(Bucket=target.bucket, Key=target.key, Body=data)

    def publish(self, name: str, data: bytes, replacing: str | None) -> None:
        """See Store; the service compares, so no lock is needed."""
        target = self._object(name)
        # boto3 repeats a request whose answer was lost, and then meets its own success: the mark tells.
        mark = {"publication": secrets.token_hex(16)}
        wanted = {"IfNoneMatch": "*"} if replacing is None else {"IfMatch": replacing}
        for pause in (*PAUSES, None):
            with target.asking() as s3:
                try:
                    s3.put_object(Bucket=target.bucket, Key=target.key, Body=data, Metadata=mark, **wanted)
                    return
                except ClientError as error:
                    status, code = status_and_code(error)
                    if status not in (409, 412) and code != "NoSuchKey":
                        raise
            if self._mark(name) == mark:
                return
            if status != 409 or pause is None:
                raise Conflict(f"{target.place} was published by somebody else")
            time.sleep(pause)  # 409: others are writing at this moment, and it is open who will win

    def tag(self, name: str) -> str | None:
        """See Store: the ETag, without its quotes, which Ceph's If-Match does not know."""
        try:
            return str(self._object(name).head()["ETag"]).strip('"')
        except FileNotFoundError:
            return None

    def scratch(self) -> AbstractContextManager[Path]:
        """See Store: a folder below TMPDIR, which needs room for what is written before each upload."""
        return scratch_folder()

    def upload(self, path: Path, name: str) -> None:
        """See Store. What was sent is given up again if it fails; the file then stays in the scratch folder."""
        target, size = self._object(name), path.stat().st_size
        with target.asking() as s3:
            try:
                _send(s3, path, target)
            except ClientError as error:
                if status_and_code(error)[1] != "NoSuchUpload":
                    raise
                # boto3 repeated a completion whose answer was lost: the parts are gone, perhaps into the object.
                _send(s3, path, target)
        if (found := self.size(name)) != size:
            raise OSError(f"{target.place} has {found} bytes, not the {size} that were uploaded")
        path.unlink()

    def remove(self, name: str) -> None:
        """See Store."""
        target = self._object(name)
        with target.asking() as s3:
            s3.delete_object(Bucket=target.bucket, Key=target.key)

    def _mark(self, name: str) -> dict[str, str] | None:
        """The metadata of a file: whose `publish` it was."""
        try:
            return dict(self._object(name).head()["Metadata"])
        except FileNotFoundError:
            return None

    def _object(self, name: str) -> S3Object:
        """The object of a file; FileNotFoundError for a name that no file of a bucket can have.

        On the way to the service `.` and `..` are taken for folders, which ends in a wrong signature.
        """
        place = f"{self}/{name}"
        try:
            name.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            raise missing(ascii(place)[1:-1]) from None
        if "\0" in name or {".", ".."} & set(name.split("/")):
            raise missing(ascii(place)[1:-1])
        return S3Object(self.endpoint, self.bucket, f"{self.prefix}/{name}" if self.prefix else name, place)


def _send(s3: Any, path: Path, target: S3Object) -> None:
    """Upload a file, in parts if it is large; whatever fails gives the parts up and is raised."""
    config = TransferConfig(
        multipart_threshold=PART_BYTES + 1, multipart_chunksize=PART_BYTES, max_request_concurrency=PART_UPLOADS
    )
    with TransferManager(s3, config) as manager:
        manager.upload(str(path), target.bucket, target.key).result()


def _check_endpoint(endpoint: str) -> None:
    """UserError for what is no URL of a service; credentials do not belong there, where messages would show them."""
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise UserError("the S3 endpoint is not http://host or https://host, with a port where need be")
    if parts.username or parts.password:
        raise UserError("the S3 endpoint holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
