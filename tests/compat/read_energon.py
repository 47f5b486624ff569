"""What Energon makes of a packed dataset, first of our own `.tar.idx` and then of those its own indexer writes.

Prints {tar: [ours, Energon's own]} as hex, the members it finds by our offsets, and the samples it trains on.
"""

import contextlib
import json
import sys
from pathlib import Path

from megatron.energon import WorkerConfig, get_savable_loader, get_train_dataset
from megatron.energon.flavors.webdataset.itar import CachedItarOffsetReader, TarIndexReader, open_itar
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

SETTINGS = """\
__module__: megatron.energon
__class__: CaptioningWebdataset
field_map: {image: jpg, caption: txt}
"""


def members(tar: Path) -> list[list[str]]:
    """The names of the members of each sample, found by the offsets beside the tar."""
    found, reader = [], CachedItarOffsetReader()
    with TarIndexReader(str(tar)) as offsets:
        samples = len(offsets) - 1
    for sample in range(samples):
        offset, size = reader.get_itar_byte_offset(str(tar), sample)
        with open_itar(str(tar), offset, size) as opened:
            found.append([member.name for member in opened])
    return found


def trained_on(folder: Path, settings: str) -> list[list[str]]:
    """[key, text] of the samples of one epoch."""
    (folder / ".nv-meta/dataset.yaml").write_text(settings)
    workers = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_train_dataset(
        folder,
        worker_config=workers,
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        repeat=False,
    )
    return [[batch.__key__[0], batch.caption[0]] for batch in get_savable_loader(dataset)]


def main() -> None:
    folder = Path(sys.argv[1])
    tars = sorted(folder.glob("*.tar"))
    ours = {tar.name: tar.with_suffix(".tar.idx").read_bytes() for tar in tars}
    with contextlib.redirect_stdout(sys.stderr):
        found = [names for tar in tars for names in members(tar)]
        ratio = [("train", 1.0), ("val", 0.0), ("test", 0.0)]
        WebdatasetPreparator.prepare_dataset(folder, list(ours), split_parts_ratio=ratio, workers=1)
        theirs = {tar.name: tar.with_suffix(".tar.idx").read_bytes() for tar in tars}
        for tar in tars:
            tar.with_suffix(".tar.idx").write_bytes(ours[tar.name])
        samples = trained_on(folder, SETTINGS)
    indexes = {name: [ours[name].hex(), theirs[name].hex()] for name in ours}
    print(json.dumps({"indexes": indexes, "members": found, "samples": samples}))


if __name__ == "__main__":
    main()
