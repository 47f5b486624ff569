"""The tables of a dataset besides its indexes: the rows that were refused, and the triplets of composed retrieval.

Planning wrote what it knew; what became of the images completes it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sharding.packing.spool import REJECTS, TRIPLETS, read_spool, record_batch, reject_schema
from sharding.store import Store

if TYPE_CHECKING:
    import pyarrow

Refused = tuple[int, int, str, str]  # number, row, file_path, reason of a record whose image was refused


def rejects_table(out: Store, refused: Sequence[Refused]) -> "pyarrow.Table":
    """The rows refused by planning, for their image, and for that of a triplet, by row: row, file_path, reason.

    With `dropped_captions`, which is not 0 for images that were packed all the same.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_spool(out, REJECTS)
    if refused:
        # A row whose image is refused is no longer one that only lost captions.
        moot = pc.and_(pc.is_in(table["row"], pa.array(sorted({row for _, row, *_ in refused}))), _lost_captions(table))
        images = [(row, path, reason, 0) for _, row, path, reason in refused]
        added = [record_batch(images, reject_schema()), *_refused_triplets(out, refused)]
        table = pa.concat_tables([table.filter(pc.invert(moot)), pa.Table.from_batches(added)])
    order = pc.sort_indices(table, [("row", "ascending"), ("reason", "ascending"), ("file_path", "ascending")])
    return table.take(order)


def _lost_captions(table: "pyarrow.Table") -> "pyarrow.Array":
    import pyarrow.compute as pc

    return pc.greater(table["dropped_captions"], 0)


def _refused_triplets(out: Store, refused: Sequence[Refused]) -> "list[pyarrow.RecordBatch]":
    numbers = {number for number, *_ in refused}
    table = read_spool(out, TRIPLETS).select(["row", "reference", "target"])
    rows = [
        (triplet["row"], "", f"triplet: its {_refused_side(triplet, numbers)} image was rejected", 0)
        for triplet in table.filter(_has_refused(table, refused)).to_pylist()
    ]
    return [record_batch(rows, reject_schema())] if rows else []


def _refused_side(triplet: dict[str, int], numbers: set[int]) -> str:
    return next(side for side in ("reference", "target") if triplet[side] in numbers)


def _has_refused(triplets: "pyarrow.Table", refused: Sequence[Refused]) -> "pyarrow.ChunkedArray":
    """Which triplets have an image that was refused."""
    import pyarrow as pa
    import pyarrow.compute as pc

    gone = pa.array([number for number, *_ in refused], pa.int64())
    return pc.or_(pc.is_in(triplets["reference"], gone), pc.is_in(triplets["target"], gone))


def triplets_table(out: Store, refused: Sequence[Refused], name: str) -> "pyarrow.Table | None":
    """reference_key, target_key, edit_caption, cpr_id of every triplet both of whose images were packed, in order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_spool(out, TRIPLETS)
    if not table.num_rows:
        return None
    table = table.filter(pc.invert(_has_refused(table, refused)))

    def keys(numbers: "pyarrow.ChunkedArray") -> "pyarrow.ChunkedArray":
        digits = pc.utf8_lpad(pc.cast(numbers, pa.string()), 9, "0")
        return pc.binary_join_element_wise(f"{name}-", digits, "")

    columns = {"reference_key": keys(table["reference"]), "target_key": keys(table["target"])}
    return pa.table({**columns, "edit_caption": table["edit_caption"], "cpr_id": table["cpr_id"]}).combine_chunks()
