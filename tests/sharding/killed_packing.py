"""Kills packings at many points and finishes them: `python -m tests.sharding.killed_packing RAW FOLDER POINTS MODE`.

A process is forked for every point; it packs and kills itself at its n-th touch of the disk (a write into a shard, a
sync, a renaming, a removal). This process then packs again. The packing is new, or is to append to or to overwrite a
dataset that is there; that is then copied for every point. Prints, as JSON, what the dataset without a kill is, and
for each point where it was and what the finished dataset is.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from sharding.pack import pack
from sharding.tar import TarWriter

TOUCHES = [(TarWriter, "_flush"), (os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir")]


def count_touches(kill_at=None):
    """From now on, count what touches the disk, and kill this process before touch `kill_at`."""
    counted = []

    def wrap(owner, name):
        real = getattr(owner, name)

        def touch(*arguments, **options):
            if len(counted) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            counted.append(name)
            return real(*arguments, **options)

        setattr(owner, name, touch)

    for owner, name in TOUCHES:
        wrap(owner, name)
    return counted


def contents(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*")}


def run_in_fork(action):
    """What `action` returns, as JSON, or None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os.write(writing, json.dumps(action()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else None


def main():
    TarWriter.PIECE = 1024  # so that even these small shards are written in several pieces
    raw, folder, points, mode = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    base = folder / "base"
    if mode != "new":
        pack("syncpr", raw, base, shard_samples=5)
    if mode == "append":  # another delivery: the same one is not added twice
        raw = Path(shutil.copytree(raw, folder / "second"))
        (raw / "SynCPR.json").write_text((raw / "SynCPR.json").read_text() + "\n")

    def finish(out):
        options = {} if mode == "new" else {mode: True}
        return pack("syncpr", raw, out, shard_samples=4, **options)

    def pack_to(name, kill_at=None):
        if base.exists():
            shutil.copytree(base, folder / name)
        counted = count_touches(kill_at)
        finish(folder / name)
        return counted

    touches = run_in_fork(lambda: pack_to("whole"))
    outcomes = []
    for point in range(points):
        at, out = len(touches) * point // points, folder / str(point)
        assert run_in_fork(lambda at=at, out=out: pack_to(out.name, at)) is None
        published = (out / "dataset.json").exists()
        packed = finish(out)
        outcomes.append({
            "touch": touches[at],
            "at": at,
            "published": published,
            "written": packed.images_written,
            "root_hash": packed.dataset.root_hash,
            "contents": contents(out),
        })  # fmt: skip
    print(json.dumps({"touches": touches, "contents": contents(folder / "whole"), "outcomes": outcomes}))


if __name__ == "__main__":
    main()
