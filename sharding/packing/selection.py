"""Which records of a source are packed, and which of their captions."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sharding.errors import UserError
from sharding.record import Record

Captions = Literal["all", "first", "longest"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is asked of a record to be packed; by default, nothing.

    `min_score`: its image quality is known and at least this; `splits`, `sources`: it is of one of these, where any are
    named; `limit`: it is among the first so many of those that pass; `captions`: which of its captions are kept.
    """

    min_score: float | None = None
    splits: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    limit: int | None = None
    captions: Captions = "all"


class Selector:
    """Applies a selection to records in their order, and remembers what was there to choose from."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.left_out: Counter[str] = Counter()  # records by reason
        self._everything = selection == Selection()
        self._taken = 0
        self._seen: dict[str, set[str]] = {"split": set(), "source": set()}

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.selection.limit is not None and self._taken >= self.selection.limit

    def select(self, record: Record) -> Record | None:
        """The record with the captions that are kept, or None where it is left out."""
        if self._everything:
            return record
        reason = self._reason(record)
        if reason:
            self.left_out[reason] += 1
            return None
        self._taken += 1
        if self.selection.captions == "all" or len(record.captions) < 2:
            return record
        longest = self.selection.captions == "longest"
        kept = max(record.captions, key=lambda caption: len(caption.split())) if longest else record.captions[0]
        return record._replace(captions=(kept,))

    def _reason(self, record: Record) -> str:
        selection = self.selection
        self._seen["split"].add(record.split)
        self._seen["source"].add(record.source)
        if selection.splits and record.split not in selection.splits:
            return "split"
        if selection.sources and record.source not in selection.sources:
            return "source"
        if selection.min_score is not None and (record.score is None or record.score < selection.min_score):
            return "no score" if record.score is None else "score"
        return "limit" if self.full else ""

    def require_known(self) -> None:
        """UserError for a split or source that no record is of: a misspelt one would be left out without a word."""
        for field, asked in (("split", self.selection.splits), ("source", self.selection.sources)):
            unknown = [name for name in asked if name not in self._seen[field]]
            if unknown and not self.full:
                raise UserError(
                    f"no image is of {field} {', '.join(unknown)}; its {field}s: {_some(self._seen[field])}"
                )

    def explain(self) -> str:
        """Why nothing may have been left, for an error message; '' where the selection left nothing out."""
        if not self.left_out:
            return ""
        told = ", ".join(f"{number:,} by {reason}" for reason, number in sorted(self.left_out.items()))
        there = "; ".join(f"its {field}s: {_some(values)}" for field, values in self._seen.items())
        return f"the selection left out {told}; {there}"


def _some(values: Iterable[str], most: int = 8) -> str:
    listed = sorted(values)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")
