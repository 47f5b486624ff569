"""S3 services for tests, on free ports of the loopback interface: moto's imitation, Ceph's gateway, a faulty proxy."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.sharding import ceph
from tests.sharding.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from sharding.s3 import S3Store

BUCKET = "people"


def fresh_place(endpoint: str) -> "S3Store":
    """A place in the bucket of a service below that nobody has used."""
    from sharding.s3 import S3Store

    return S3Store.at(f"s3://{BUCKET}/{uuid4().hex}", endpoint=endpoint)


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[None]:
    """The environment in which this process and its children find credentials, of the services below and no other."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_MAX_ATTEMPTS"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", ceph.ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", ceph.SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(scope="session")
def moto_server(s3_environment: None) -> Iterator[str]:
    """The URL of moto's S3 with a bucket; it keeps everything in memory."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server = make_server(
        "127.0.0.1", 0, _one_condition_at_a_time(DomainDispatcherApplication(create_backend_app)), threaded=True
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield _with_bucket(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def radosgw(s3_environment: None) -> Iterator[str]:
    """The URL of Ceph's S3 service with a bucket; skips where Ceph is not installed."""
    if not ceph.is_installed():
        pytest.skip("Ceph (radosgw, ceph-mon, ceph-osd, ceph-common) is not installed")
    with ceph.gateway() as url:
        yield _with_bucket(url)


@pytest.fixture
def faulty(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy of faults in front of moto; this process retries as often as ever, but its pauses are short."""
    from sharding import s3, s3_client, s3_object

    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)
    for module in (s3, s3_object):
        monkeypatch.setattr(module, "PAUSES", (0.01, 0.01, 0.01))
    with FaultProxy(moto_server).running() as proxy:
        yield proxy
    s3_client.client.cache_clear()


def _with_bucket(endpoint: str) -> str:
    from sharding.s3_client import client

    client(endpoint).create_bucket(Bucket=BUCKET)
    return endpoint


def _one_condition_at_a_time(application: Callable[..., Any]) -> Callable[..., Any]:
    """moto compares and then writes, in many threads; a real service does both at once."""
    lock = threading.Lock()

    def serve(environment: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if "HTTP_IF_NONE_MATCH" in environment or "HTTP_IF_MATCH" in environment:
            with lock:
                return application(environment, start_response)
        return application(environment, start_response)

    return serve
