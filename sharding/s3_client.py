"""The connection to an S3 service, and its failures in the words of this project.

A request that fails for a reason that may pass (no answer, a broken connection, 500, 503 …) is repeated by boto3's
standard mode, with growing pauses; what remains afterwards is one clear error.
"""

import errno
import os
from functools import cache
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from sharding.errors import UserError

ATTEMPTS = 6  # with their pauses 15 s on average, 31 s at most; AWS_MAX_ATTEMPTS overrules
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
CONNECTIONS = 32  # of one process, over all of its threads

# What boto3 and the libraries below it raise: no answer, a refusal, nonsense for an answer, a broken connection.
FAILURES = (exceptions.BotoCoreError, exceptions.ClientError, ResponseParserError, HTTPError)
_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.NoAuthTokenError,
    exceptions.TokenRetrievalError,
    exceptions.SSOError,
)
_UNREACHABLE = (
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyConnectionError,
    exceptions.SSLError,
)
_REFUSED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed")  # with status 400


@cache
def client(endpoint: str | None) -> Any:
    """The S3 client of this process for an endpoint; threads share it. UserError if boto3's settings make no sense."""
    retries: dict[str, Any] = {"mode": "standard"}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    config = Config(
        retries=retries,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        max_pool_connections=CONNECTIONS,
        # Only Amazon has a host name for each bucket.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    try:
        # A session of its own, for the default session is not to be shared by threads.
        return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
    except (exceptions.BotoCoreError, ValueError) as error:
        raise UserError(f"S3 cannot be used as it is set up: {one_line(error)}") from None


os.register_at_fork(after_in_child=client.cache_clear)  # a child must not speak on its parent's connections


def status_and_code(error: BaseException) -> tuple[int, str]:
    """HTTP status and S3's name of a failure that the service reported; (0, "") of any other."""
    if not isinstance(error, exceptions.ClientError):
        return 0, ""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), code


def missing(place: str) -> FileNotFoundError:
    """The error of a file that is not there."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)


def explained(error: Exception, place: str, bucket: str, endpoint: str | None) -> Exception:
    """What to raise instead of one of FAILURES: FileNotFoundError, UserError, or else an OSError; all name `place`."""
    service = endpoint or "Amazon S3"
    status, code = status_and_code(error)
    if code == "NoSuchBucket" or (code == "404" and not _bucket_exists(bucket, endpoint)):
        return UserError(f"{place}: there is no bucket {bucket} at {service}")
    if code in ("NoSuchKey", "404"):
        return missing(place)
    if isinstance(error, _NO_CREDENTIALS):
        return UserError(
            f"{place}: no usable credentials ({one_line(error)}); "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if status in (401, 403) or code in _REFUSED:
        return UserError(f"{place}: {service} refuses access ({code}); check the credentials and what they allow")
    if isinstance(error, _UNREACHABLE):
        return UserError(f"{place}: cannot reach {service}; check the endpoint and the network ({one_line(error)})")
    if isinstance(error, ResponseParserError):
        return UserError(f"{place}: {service} does not answer as S3 does; check the endpoint ({one_line(error)})")
    if isinstance(error, exceptions.ClientError):
        if code == str(status):  # an S3 service gives a reason; a web server's page or a gateway's is read as 500
            return OSError(f"{place}: {service} answers {status} without S3's words; check the endpoint")
        message = error.response.get("Error", {}).get("Message") or "no reason given"
        return OSError(f"{place}: {service} answers {status} {code}: {' '.join(str(message).split())}")
    return OSError(f"{place}: {service} fails: {one_line(error)}")


def one_line(error: Exception) -> str:
    """The error in one line of at most 200 characters: a parser's error quotes the whole page that it was given."""
    return " ".join(str(error).split())[:200]


def _bucket_exists(bucket: str, endpoint: str | None) -> bool:
    """Asked where only a status 404 tells that something is missing, as of HEAD; if in doubt, the bucket exists."""
    try:
        return _found_bucket(bucket, endpoint)
    except FAILURES as error:
        return status_and_code(error)[0] != 404


@cache
def _found_bucket(bucket: str, endpoint: str | None) -> bool:
    """True, remembered for the life of the process, or the client's error."""
    client(endpoint).head_bucket(Bucket=bucket)
    return True
