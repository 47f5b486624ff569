"""Runs one pure function over many tasks: in this process, in several of this machine, or as Ray tasks on a cluster.

Results come in the order they are finished. Tasks are sent out a few at a time, so a stop leaves little undone.
"""

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

from sharding.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
RETRIES = 3  # of a Ray task that failed, or whose worker or node died


class Run(Protocol):
    """`function(task)` of every task, in the order of completion; the first exception of a task ends it."""

    def __call__(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]: ...


def run(function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int = 1) -> Iterator[Result]:
    """`function(task)` of every task, in the order of completion, in `workers` processes (see `started`)."""
    with started(workers=workers) as go:
        yield from go(function, tasks)


@contextmanager
def started(*, workers: int = 1, ray_address: str | None = None, preload: Sequence[str] = ()) -> Iterator[Run]:
    """Gives what runs tasks while the context lasts.

    One worker is this process. Several are started at once and import the modules `preload` while this process gets the
    tasks ready; with them, or with `ray_address` (as `ray.init` takes it), functions and tasks are pickled. Ray tries
    again what the system refused and what a dead worker had. OSError where a worker was killed; UserError where no Ray
    answers.
    """
    if ray_address is not None:
        with _ray(ray_address) as go:
            yield go
    elif workers > 1:
        with _processes(workers, preload) as go:
            yield go
    else:
        yield _here


def _here(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    return map(function, tasks)


@contextmanager
def _processes(workers: int, preload: Sequence[str]) -> Iterator[Run]:
    before = multiprocessing.active_children()
    # Forked from a clean process that has loaded everything once: this one may have threads, locks and connections.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    for _ in range(workers):
        pool.submit(os.getpid)  # a pool starts no process before there is something to do

    def go(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        return _completed(pool, function, iter(tasks), 2 * workers)

    try:
        yield go
    except BrokenProcessPool:
        raise OSError("a worker process was killed (out of memory?); run the same command again to resume") from None
    except BaseException:
        for child in multiprocessing.active_children():  # let nobody wait for shards that are no longer wanted
            if child not in before:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _completed(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Iterator[Task], in_flight: int
) -> Iterator[Result]:
    running: set[Future[Result]] = {pool.submit(function, task) for task in islice(tasks, in_flight)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {pool.submit(function, task) for task in islice(tasks, len(done))}
        for future in done:
            yield future.result()


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it: a pool's workers outlive a killed parent, waiting for tasks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_the_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def _require_answer(address: str) -> None:
    """UserError where nothing listens at HOST:PORT: Ray itself would go on asking for long, and warn every second."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise UserError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


@contextmanager
def _ray(address: str) -> Iterator[Run]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.exceptions import RayError, RayTaskError

    ours = not ray.is_initialized()
    if ours:
        _require_answer(address)
        try:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from None

    def go(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        often: Any = [OSError]  # a bad input stays bad
        remote: Any = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=often)(function)
        waiting = iter(tasks)
        in_flight = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        running: list[Any] = [remote.remote(task) for task in islice(waiting, in_flight)]
        try:
            while running:
                done, running = ray.wait(running)
                running += [remote.remote(task) for task in islice(waiting, len(done))]
                yield from ray.get(done)
        finally:
            for task in running:  # nobody waits for them any more, and they must not write after the claim is gone
                ray.cancel(task, force=True)

    try:
        yield go
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise OSError(f"Ray gave up a task: {str(error).splitlines()[0]}") from None
    finally:
        if ours:
            ray.shutdown()
