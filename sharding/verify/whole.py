"""What only all shards of a dataset together can tell: shards in each other's place, keys, counts, companions."""

import numpy as np
from numpy.typing import NDArray

from sharding.companions import SIZES, WIDS, sizes_json, wids_json
from sharding.dataset import MANIFEST, Dataset
from sharding.index import index_name, tar_name
from sharding.verify.samples import Affected
from sharding.verify.shard import Contents, Finding, ShardOutcome


def shard_findings(outcomes: list[ShardOutcome]) -> list[Finding]:
    """What was found shard by shard, but a file in another's place is called just that."""
    tars = {outcome.shard.sha256: outcome.shard.name for outcome in outcomes}
    indexes = {outcome.shard.index_sha256: outcome.shard.name for outcome in outcomes}
    held = {}  # file: the file whose content it holds
    for outcome in outcomes:
        own = outcome.shard.name
        for name, digest, known in (
            (tar_name, outcome.tar_sha256, tars),
            (index_name, outcome.index_sha256, indexes),
        ):
            if (other := known.get(digest or "", own)) != own:
                held[name(own)] = name(other)
    findings: list[Finding] = []
    for outcome in outcomes:
        own = outcome.shard.name
        findings += [finding for finding in outcome.findings if finding.file not in held]
        for file in (tar_name(own), index_name(own)):
            if file in held:
                swapped = "; the two are swapped" if held.get(held[file]) == file else ""
                problem = f"holds what {held[file]} should{swapped}"
                findings.append(Finding(file=file, problem=problem, samples=outcome.shard.samples, whole=True))
    return findings


def count_findings(dataset: Dataset, outcomes: list[ShardOutcome]) -> list[Finding]:
    """Counts in `dataset.json` that the indexes, all of them sound, do not bear out."""
    if not all_read(outcomes):
        return []
    contents = [(outcome.shard.split, outcome.contents) for outcome in outcomes if outcome.contents]
    splits = dict.fromkeys(split for split, _ in contents)
    found = {split: _counts([held for other, held in contents if split in ("", other)]) for split in ("", *splits)}
    said = {"": dataset.counts, **dataset.counts["splits"]}
    problems = [f"counts a split {split!r} that no shard is of" for split in said.keys() - found.keys()]
    for split, counts in found.items():
        for what, number in counts.items():
            listed = said.get(split, {}).get(what, 0)
            if listed != number and (what != "image_bytes" or not split):
                where = f" of split {split}" if split else ""
                problems.append(f"counts {listed:,} {what.replace('_', ' ')}{where} where the indexes hold {number:,}")
    return [Finding(file=MANIFEST, problem=problem) for problem in problems]


def _counts(contents: list[Contents]) -> dict[str, int]:
    return {
        "images": sum(len(held.numbers) for held in contents),
        "captions": sum(held.captions for held in contents),
        "identities": len(np.unique(np.concatenate([held.identities for held in contents]))),
        "image_bytes": sum(held.image_bytes for held in contents),
    }


def all_read(outcomes: list[ShardOutcome]) -> bool:
    """Whether every index was read, and is the one that `dataset.json` names."""
    return bool(outcomes) and all(o.contents is not None and o.index_sha256 == o.shard.index_sha256 for o in outcomes)


def all_numbers(outcomes: list[ShardOutcome]) -> NDArray[np.int64] | None:
    """The numbers in the keys of all samples; None unless every index is sound."""
    if not all_read(outcomes):
        return None
    return np.concatenate([outcome.contents.numbers for outcome in outcomes if outcome.contents is not None])


def key_findings(outcomes: list[ShardOutcome]) -> list[Finding]:
    """Keys that are given to more than one sample."""
    read = [(outcome.shard.name, outcome.contents.numbers) for outcome in outcomes if outcome.contents is not None]
    if not read:
        return []
    numbers = np.concatenate([numbers for _, numbers in read])
    values, times = np.unique(numbers, return_counts=True)
    twice = values[times > 1]
    findings = []
    for name, numbers in read if len(twice) else ():
        keys = [_key(name, number) for number in np.unique(numbers[np.isin(numbers, twice)]).tolist()]
        if keys:
            affected = tuple(Affected(key, None, None, "key given twice") for key in keys)
            problem = "gives keys that other samples have too"
            findings.append(Finding(file=index_name(name), problem=problem, samples=len(keys), affected=affected))
    return findings


def _key(shard: str, number: int) -> str:
    return f"{shard.split('-')[0]}-{number:09d}"


def companion_findings(dataset: Dataset, files: dict[str, int]) -> list[Finding]:
    """`sizes.json` and `wids.json`, which follow from the shards."""
    findings = []
    for name, content in ((SIZES, sizes_json(dataset.shards)), (WIDS, wids_json(dataset.name, dataset.shards))):
        if name not in files:
            findings.append(Finding(file=name, problem="is missing"))
        elif dataset.store.read(name) != content:
            findings.append(Finding(file=name, problem=f"does not follow from the shards in {MANIFEST}"))
    return findings
