"""Re-reads a packed dataset and says what is no longer as it was packed, down to the samples: `sharding verify`.

dataset.json → its root hash → every shard (sharding/verify/shard.py) → what only all indexes together can tell:
shards in each other's place, keys given twice, counts → tables → companion files → Report
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sharding import pool
from sharding.companions import SIZES, TOKENS, WIDS, offsets_name
from sharding.dataset import MANIFEST, NAME, Dataset, parse_manifest, read_manifest
from sharding.errors import UserError
from sharding.index import SHARD_NAME, index_name, tar_name
from sharding.store import Store, open_store
from sharding.verify.shard import Finding, ShardOutcome, ShardTask, check_shard
from sharding.verify.tables import table_findings
from sharding.verify.whole import all_numbers, companion_findings, count_findings, key_findings, shard_findings


class Damaged(UserError):
    """The dataset was read, and it is not as it was packed."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `verify` found; `samples`, `bytes` and `root_hash` are what `dataset.json` names, None or 0 without one.

    `warnings` name files that are no part of the dataset. `fast` says that no member was looked into.
    """

    place: str
    name: str | None
    root_hash: str | None
    fast: bool
    shards: int
    samples: int
    bytes: int
    seconds: float
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def damaged_samples(self) -> int:
        """How many samples are damaged, or may be where nothing tells."""
        whole = {finding.file.partition(".")[0]: finding.samples for finding in self.findings if finding.whole}
        named = {sample.key for finding in self.findings if finding.samples for sample in finding.affected}
        return min(self.samples, sum(whole.values()) + len(named))


def verify(
    place: Path | str | Store,
    *,
    fast: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read every byte of the dataset at `place` and compare it with its indexes and hashes; damage is no exception.

    With `fast`, files are held to their sizes and hashes alone. `progress(bytes done, bytes)` counts the tars. Held in
    memory are an index and a piece of the tar for each worker, and some tens of bytes a sample. Raises UserError where
    there is no packed dataset, OSError where the store fails.
    """
    began = time.perf_counter()
    store = open_store(place)
    files = dict(store.names())
    dataset = _open(store, files)
    if isinstance(dataset, Finding):
        return _report(store, None, fast, began, [dataset], ())
    outcomes = _check_shards(dataset, files, fast, workers, progress)
    findings = [
        *_manifest_findings(dataset),
        *count_findings(dataset, outcomes),
        *shard_findings(outcomes),
        *key_findings(outcomes),
        *table_findings(dataset, files, all_numbers(outcomes), fast),
        *companion_findings(dataset, files),
    ]
    return _report(store, dataset, fast, began, findings, tuple(_strangers(dataset, files)))


def _report(
    store: Store, dataset: Dataset | None, fast: bool, began: float, findings: list[Finding], warnings: tuple[str, ...]
) -> Report:
    shards = dataset.shards if dataset else ()
    return Report(
        place=str(store),
        name=dataset.name if dataset else None,
        root_hash=dataset.root_hash if dataset else None,
        fast=fast,
        shards=len(shards),
        samples=sum(shard.samples for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
        seconds=time.perf_counter() - began,
        findings=tuple(findings),
        warnings=warnings,
    )


def _open(store: Store, files: dict[str, int]) -> Dataset | Finding:
    """The dataset as listed, or what is wrong with `dataset.json`; UserError where nothing was packed."""
    if MANIFEST not in files and any(SHARD_NAME.fullmatch(name.removesuffix(".tar")) for name in files):
        return Finding(file=MANIFEST, problem="is missing: packing was not finished, or the file was lost")
    if MANIFEST in files and not _is_json(store.read(MANIFEST)):
        return Finding(file=MANIFEST, problem="is damaged: it is no JSON")
    content = read_manifest(store)
    try:
        dataset = parse_manifest(store, content)
    except UserError:
        return Finding(file=MANIFEST, problem="is damaged or edited: it does not match its own root hash")
    if not NAME.fullmatch(dataset.name) or dataset.name != dataset.generations[0].settings.get("name"):
        return Finding(file=MANIFEST, problem=f"gives the name {dataset.name!r} to what was packed under another")
    return dataset


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _manifest_findings(dataset: Dataset) -> list[Finding]:
    """What `dataset.json` says that its root hash does not cover, and that is at odds with what it covers."""
    problems = []
    for shard in dataset.shards:
        if not SHARD_NAME.fullmatch(shard.name):
            problems.append(f"names a shard {shard.name!r}, which no packing writes")
        elif shard.name.split("-")[1] != shard.split:
            problems.append(f"gives the split {shard.split!r} to the shard {shard.name}")
    return [Finding(file=MANIFEST, problem=problem) for problem in problems]


def _check_shards(
    dataset: Dataset, files: dict[str, int], fast: bool, workers: int, progress: Callable[[int, int], None] | None
) -> list[ShardOutcome]:
    """The outcomes in the order of the shards; names that could leave the folder are never opened."""
    shards = [shard for shard in dataset.shards if SHARD_NAME.fullmatch(shard.name)]
    done, total = 0, sum(shard.bytes for shard in shards)
    tasks = (
        ShardTask(
            store=dataset.store,
            name=dataset.name,
            shard=shard,
            files=frozenset({tar_name(shard.name), index_name(shard.name), offsets_name(shard.name)} & files.keys()),
            fast=fast,
        )
        for shard in shards
    )
    outcomes = {}
    for outcome in pool.run(check_shard, tasks, workers=workers):
        outcomes[outcome.shard.name] = outcome
        done += outcome.shard.bytes
        if progress:
            progress(done, total)
    return [outcomes[shard.name] for shard in shards]


def _strangers(dataset: Dataset, files: dict[str, int]) -> Iterator[str]:
    """Files that are no part of the dataset."""
    known = {MANIFEST, SIZES, WIDS, *dataset.tables}
    for shard in dataset.shards:
        known |= {tar_name(shard.name), index_name(shard.name), offsets_name(shard.name)}
    tokens = {(shard.name, shard.index_sha256[:12]) for shard in dataset.shards}
    for name in files:
        of_tokens = TOKENS.fullmatch(name)
        if name not in known and not (of_tokens and of_tokens.groups()[:2] in tokens):
            yield name
