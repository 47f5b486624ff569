"""What lies where a dataset is to be packed already: nothing, the same, one to add to, one to mend or to replace."""

from dataclasses import dataclass, replace
from typing import Any

from sharding.companions import SIZES, WIDS, offsets_name, sizes_json, wids_json
from sharding.dataset import MANIFEST, SCHEMA_VERSION, Dataset, Generation, missing_files, parse_manifest, read_manifest
from sharding.errors import UserError
from sharding.index import SHARD_NAME, index_name, tar_name
from sharding.packing.claim import finish, refuse_another_job
from sharding.packing.shard_plan import Start
from sharding.store import Store


@dataclass(frozen=True, kw_only=True)
class Existing:
    """What is published at the output, and which place among its generations is to be packed.

    `tag` is that of its manifest. `replaces` says that all of it is to go, which may be damaged so that `dataset` is
    None.
    """

    dataset: Dataset | None = None
    tag: str | None = None
    place: int = 0
    replaces: bool = False

    @property
    def before(self) -> Dataset | None:
        """The dataset that the generation to be packed is added to; its counts are those of all generations."""
        if self.dataset is None or not self.place:
            return None
        return replace(self.dataset, generations=self.dataset.generations[: self.place])

    @property
    def packed(self) -> Generation | None:
        """The generation to be packed as it was published, where it was."""
        known = self.dataset is not None and not self.replaces and self.place < len(self.dataset.generations)
        return self.dataset.generations[self.place] if known and self.dataset else None

    @property
    def later(self) -> tuple[Generation, ...]:
        """The generations that were added after it."""
        return self.dataset.generations[self.place + 1 :] if self.dataset and not self.replaces else ()

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing to do: the job was published, and its files are there and of the right size."""
        return self.packed is not None and self.dataset is not None and not missing_files(self.dataset)

    @property
    def start(self) -> Start:
        """Numbers that the generations before have not used."""
        before = self.before
        if before is None:
            return Start()
        shards: dict[str, int] = {}
        for shard in before.shards:
            shards[shard.split] = max(shards.get(shard.split, 0), int(shard.name[-6:]) + 1)
        return Start(number=before.generations[-1].next_number, shards=shards)


def find_existing(out: Store, noted: dict[str, Any], *, append: bool, overwrite: bool) -> Existing:
    """What there is for this job: `noted` holds its settings and annotations.

    UserError where it is of other settings or another input, and neither to be added to nor to be replaced.
    """
    tag = out.tag(MANIFEST)
    if tag is None:
        if append:
            raise UserError(f"{out} holds no complete dataset to append to")
        return Existing()
    try:
        dataset = parse_manifest(out, read_manifest(out))
    except UserError:
        if not overwrite:
            raise
        return Existing(tag=tag, replaces=True)
    finish(out, dataset)
    if overwrite:
        return Existing(dataset=dataset, tag=tag, replaces=True)
    for place, generation in enumerate(dataset.generations):
        if is_of(generation, noted):
            return Existing(dataset=dataset, tag=tag, place=place)
    first = dataset.generations[0]
    if append:
        if (first.settings["source"], dataset.name) != (noted["settings"]["source"], noted["settings"]["name"]):
            raise UserError(f"{out} holds {dataset.name}, packed from {dataset.source}: only the same can be appended")
        _refuse_twice(out, dataset, noted)
        return Existing(dataset=dataset, tag=tag, place=len(dataset.generations))
    found = {"schema_version": SCHEMA_VERSION, "settings": first.settings, "annotations": first.annotations}
    refuse_another_job(out, found, noted)
    raise AssertionError("a generation of this job would have been found")


def _refuse_twice(out: Store, dataset: Dataset, noted: dict[str, Any]) -> None:
    """UserError where the same part of the same input is in the dataset already, if with other settings."""
    part = ("splits", "sources")
    for generation in dataset.generations:
        same = all(generation.settings[name] == noted["settings"][name] for name in part)
        if same and generation.annotations == noted["annotations"]:
            raise UserError(
                f"{out} holds this input already, packed with other settings; its images would be there twice"
            )


def is_of(generation: Generation, noted: dict[str, Any]) -> bool:
    """Whether a generation was packed by this job."""
    return generation.settings == noted["settings"] and generation.annotations == noted["annotations"]


def is_published(out: Store, noted: dict[str, Any]) -> bool:
    """Whether `out` holds a complete dataset with a generation of this job."""
    if out.tag(MANIFEST) is None:
        return False
    return any(is_of(generation, noted) for generation in parse_manifest(out, read_manifest(out)).generations)


def write_companions(dataset: Dataset) -> None:
    """Have the files by which other tools find the shards say what `dataset.json` says."""
    for name, content in ((SIZES, sizes_json(dataset.shards)), (WIDS, wids_json(dataset.name, dataset.shards))):
        if not dataset.store.exists(name) or dataset.store.read(name) != content:
            dataset.store.write(name, content)


def remove_stale_shards(out: Store, keep: set[str]) -> None:
    """Remove what an earlier plan of the same packing left: shards, whole or half, that are not to be kept."""
    for name, _ in list(out.names()):
        shard = name.partition(".")[0]
        is_part = name in (tar_name(shard), index_name(shard), offsets_name(shard))
        if is_part and SHARD_NAME.fullmatch(shard) and shard not in keep:
            out.remove(name)
