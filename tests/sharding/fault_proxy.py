"""A small HTTP proxy in front of an S3 service that fails, in a given way, the next requests that match."""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = ("503", "reset", "short", "lie", "lost", "delay", "hang", "garbage")
NOT_PASSED_ON = {"connection", "expect", "keep-alive", "transfer-encoding"}


@dataclass
class Fault:
    """Fail `times` requests of `method` (any, if empty) whose path and query match `pattern`, in one of KINDS.

    `503` and `reset` are the answer instead of the service's; `lost` lets the service act and resets afterwards;
    `short` breaks off in the middle of the body, `lie` too but with a Content-Length that fits; `delay` answers after
    `seconds`; `hang` never answers and passes nothing on; `garbage` is the page of a web server.
    """

    kind: str
    times: int
    method: str
    pattern: str
    seconds: float


class FaultProxy:
    """Passes requests on to `upstream`; `url` is where it listens, `seen` the (method, path) of every request."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.seen: list[tuple[str, str]] = []
        self.hanging = threading.Event()  # set once a request hangs
        self.stopped = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, kind: str, times: int = 1, *, method: str = "", pattern: str = "", seconds: float = 0.0) -> None:
        """Add a fault; those added earlier come first."""
        assert kind in KINDS
        self._faults.append(Fault(kind, times, method, pattern, seconds))

    def forgive(self) -> None:
        """From now on all goes well."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for a request, now counted."""
        with self._lock:
            self.seen.append((method, path))
            for fault in self._faults:
                if fault.times > 0 and fault.method in ("", method) and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        """Serve until the context is left."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.stopped.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: 40 ms each time otherwise

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that was killed
            super().handle()

    def _serve(self) -> None:
        proxy: Any = self.server.proxy  # type: ignore[attr-defined]
        fault = proxy.take(self.command, self.path)
        kind = fault.kind if fault else ""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        if kind == "hang":
            proxy.hanging.set()
            proxy.stopped.wait()
        if kind in ("reset", "hang"):
            return self._reset()
        if kind == "503":
            return self._answer(
                503, {}, b"<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"
            )
        if kind == "garbage":
            return self._answer(200, {"Content-Type": "text/html"}, b"<html><p>It works!<br></html>")
        status, headers, data = self._upstream(proxy.upstream, body)
        if kind == "lost":
            return self._reset()
        if kind == "lie":
            data = data[: len(data) // 2]
        self._answer(status, headers, data, cut=kind == "short")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _upstream(self, host: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(host, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON}
            connection.request(self.command, self.path, body, headers)  # Host is kept: it is part of the signature
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in NOT_PASSED_ON}
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """Close with RST, as a machine that goes down does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""
