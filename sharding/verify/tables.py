"""The tables of a dataset besides its indexes, re-read: rows that were refused, and triplets of composed retrieval."""

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sharding.dataset import MANIFEST, Dataset, Generation
from sharding.index import rows_hash
from sharding.verify.samples import Affected
from sharding.verify.shard import Finding

if TYPE_CHECKING:
    import pyarrow

REJECTS = {"row": "int64", "file_path": "string", "reason": "string"}
TRIPLETS = {"reference_key": "string", "target_key": "string", "edit_caption": "string", "cpr_id": "int64"}
LOST_CAPTIONS = r"^captions: (?P<lost>[0-9]{1,9}) of [0-9]+ unusable \(image kept\)$"


def table_findings(
    dataset: Dataset, files: dict[str, int], numbers: NDArray[np.int64] | None, fast: bool
) -> list[Finding]:
    """What is wrong with the tables; with `fast` only their hashes are compared.

    `numbers` are those in the keys of all samples, which triplets are held to; None where some could not be read.
    """
    findings: list[Finding] = []
    counts = {"rejects": 0, "dropped_captions": 0, "triplets": 0}
    counted = not fast
    for generation in dataset.generations:
        for name, sha256 in generation.tables.items():
            table, problem = _read(dataset, files, name, sha256, fast)
            found = [Finding(file=name, problem=problem)] if problem else []
            if table is not None and "reason" in table.schema.names:
                _count_rejects(table, counts)
            elif table is not None:
                counts["triplets"] += table.num_rows
                found += _triplet_findings(dataset, generation, name, table, numbers, known_bad=bool(problem))
            counted &= not found
            findings += found
    for what, number in counts.items() if counted else ():  # a damaged table explains its own counts
        if (listed := dataset.counts.get(what, 0)) != number:
            problem = f"counts {listed:,} {what.replace('_', ' ')} where the tables hold {number:,}"
            findings.append(Finding(file=MANIFEST, problem=problem))
    return findings


def _read(
    dataset: Dataset, files: dict[str, int], name: str, sha256: str, fast: bool
) -> "tuple[pyarrow.Table | None, str]":
    """A table, if it is one of the two kinds, and what is wrong with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = REJECTS if name.startswith("rejects") else TRIPLETS
    if name not in files:
        return None, "is missing"
    data = dataset.store.read(name)
    problem = "" if hashlib.sha256(data).hexdigest() == sha256 else f"does not match its sha256 in {MANIFEST}"
    if fast:
        return None, problem
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError):
        return None, problem or "cannot be read as Parquet"
    if {field.name: str(field.type) for field in table.schema} != columns or any(c.null_count for c in table.columns):
        return None, problem or f"does not have the columns {', '.join(columns)}"
    return table, problem


def _count_rejects(table: "pyarrow.Table", counts: dict[str, int]) -> None:
    """Add the rows that were refused, and the captions that packed images lost."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lost = pc.drop_null(pc.struct_field(pc.extract_regex(table["reason"], LOST_CAPTIONS), "lost"))
    counts["rejects"] += table.num_rows - len(lost)
    counts["dropped_captions"] += pc.sum(pc.cast(lost, pa.int64()), min_count=0).as_py()


def _triplet_findings(
    dataset: Dataset,
    generation: Generation,
    name: str,
    table: "pyarrow.Table",
    numbers: NDArray[np.int64] | None,
    known_bad: bool,
) -> list[Finding]:
    findings = []
    if not known_bad and rows_hash(table) != generation.triplets_hash:
        findings.append(Finding(file=name, problem=f"does not match triplets_hash in {MANIFEST}"))
    if numbers is not None and (unknown := _unknown_keys(table, dataset.name, numbers)):
        affected = tuple(Affected(key, None, None, "named by a triplet") for key in unknown)
        findings.append(Finding(file=name, problem="names samples that do not exist", affected=affected))
    return findings


def _unknown_keys(table: "pyarrow.Table", name: str, numbers: NDArray[np.int64]) -> list[str]:
    """The keys in a table of triplets that no sample has, sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = pc.unique(pa.chunked_array([*table["reference_key"].chunks, *table["target_key"].chunks], pa.string()))
    formed = pc.match_substring_regex(keys, f"^{name}-[0-9]{{9,18}}$")
    own = keys.filter(formed)
    own_numbers = pc.cast(pc.utf8_slice_codeunits(own, len(name) + 1), pa.int64()).to_numpy(zero_copy_only=False)
    missing = own.filter(pa.array(~np.isin(own_numbers, numbers)))
    return sorted([*keys.filter(pc.invert(formed)).to_pylist(), *missing.to_pylist()])
