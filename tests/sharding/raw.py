"""Reading raw datasets in tests."""

from collections.abc import Iterable
from pathlib import Path

from sharding.record import Record, Reject, Triplet
from sharding.sources import SOURCES
from sharding.store import LocalStore, Store

Row = Record | Reject | Triplet


def read(source: str, place: Path | Store) -> list[Row]:
    """Every row of a raw dataset."""
    return list(SOURCES[source](LocalStore(place) if isinstance(place, Path) else place).rows)


def rejected(rows: Iterable[Row]) -> dict[int, str]:
    """The reasons by row number."""
    return {row.row: row.reason for row in rows if isinstance(row, Reject)}


def records(rows: Iterable[Row]) -> list[Record]:
    """The records alone."""
    return [row for row in rows if isinstance(row, Record)]
