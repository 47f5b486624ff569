"""Procedurally drawn pedestrians with captions, written out in the raw layout of any supported dataset.

They stand in for the real corpora in tests, demos and benchmarks: same files, same fields, same traps. Importing this
package is cheap; numpy, Pillow and pyarrow are loaded by the first call that needs them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from sharding.errors import UserError

LAYOUTS: tuple[str, ...] = (
    "pretrain_41k", "pretrain_110k", "luperson_t", "luperson_t_json", "syncpr", "cuhk_pedes", "cuhk_pedes_original",
    "icfg_pedes", "rstpreid", "ufine6926", "ufine3c", "itcpr", "jsonl", "folder", "webdataset",
)  # fmt: skip
SAME_PEOPLE = {  # another form of a layout, which shows the same people in the same pictures
    "pretrain_41k": "pretrain_110k", "luperson_t_json": "luperson_t", "cuhk_pedes_original": "cuhk_pedes",
}  # fmt: skip
SOURCE_OF = {"luperson_t_json": "luperson_t", "cuhk_pedes_original": "cuhk_pedes"}  # others are read by their own name


def synthesize(
    layout: str, *, people: int, out: Path, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write `people` identities in the raw layout `layout` below `out`; returns the number of images.

    The same arguments give the same bytes. For SynCPR two people make one textual quadruple. `progress` is called with
    (done, total) after every identity or quadruple. Everything is written to the folder `.{out.name}.partial` beside
    `out`, which is renamed at the end; what a killed run leaves there goes with the next one. Raises UserError for an
    unknown layout, fewer than one person, or an `out` that exists and is not an empty folder.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if people < 1:
        raise UserError(f"people is {people}: ask for at least one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder: remove it or choose another output")
    from sharding.synthetic.layouts import WRITERS
    from sharding.synthetic.write import Write

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write = Write(
            layout=SAME_PEOPLE.get(layout, layout),
            seed=seed,
            people=people,
            root=partial,
            progress=progress or (lambda *_: None),
        )
        images = WRITERS[layout](write)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return images
