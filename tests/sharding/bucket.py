"""A folder that is read as a bucket is, without a service: what is asked of it is counted and can be disturbed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from sharding.dataset import Dataset
from sharding.store import LocalStore


@dataclass(frozen=True)
class Bucket:
    """What readers need of a Store; `requests` are the (name, offset, size) of the tars' stretches that were read."""

    directory: Path
    requests: list[tuple[str, int, int]] = field(default_factory=list)
    disturb: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return "s3://people"

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return LocalStore(self.directory).names(prefix)

    def size(self, name: str) -> int:
        return LocalStore(self.directory).size(name)

    def open(self, name: str) -> BinaryIO:
        return LocalStore(self.directory).open(name)

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        if name.endswith(".tar"):
            self.requests.append((name, offset, size))
            self.disturb()
        return LocalStore(self.directory).read(name, offset, size)


def in_bucket(dataset: Dataset, disturb: Callable[[], None] = lambda: None) -> Dataset:
    """The same dataset in a bucket."""
    return replace(dataset, store=Bucket(dataset.directory, disturb=disturb))  # type: ignore[arg-type]
