"""A packing killed anywhere is finished by the next one, to the same bytes."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from sharding.dataset import open_dataset
from sharding.errors import UserError
from sharding.pack import pack

KILLED = """
import os, pathlib, signal, sys
from sharding.pack import pack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
left, rename = int(sys.argv[3]), pathlib.Path.replace
def replace(self, target):
    global left
    if str(target).endswith(".tar"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), getattr(signal, sys.argv[4]))
    return rename(self, target)
pathlib.Path.replace = replace
pack(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[2]).with_name("out"), shard_samples=3)
"""


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pack_and_die(folder, tars, signal_name="SIGKILL"):
    """Pack PRETRAIN_110K by threes and die before tar number `tars` takes its name."""
    command = [sys.executable, "-c", KILLED, "pretrain_110k", str(folder), str(tars), signal_name]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


@pytest.fixture
def syncpr(write_json, picture):
    """Ten images in nine triplets; one image is missing and one cannot be opened."""
    rows = [
        {
            "reference_caption": f"A {n}.",
            "target_caption": f"A {n + 1}.",
            "reference_image_path": f"{n}.png",
            "target_image_path": f"{n + 1}.png",
            "edit_caption": "x",
            "cpr_id": n,
        }
        for n in range(9)
    ]
    images = {f"{n}.png": picture(n, "PNG") for n in range(10) if n != 4} | {"7.png": b"\x89PNG\r\n\x1a\njunk"}
    return write_json("SynCPR.json", rows, images)


def killed_packings(raw, folder, points, mode):
    command = [sys.executable, "-m", "tests.sharding.killed_packing", str(raw), str(folder), str(points), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len({outcome["at"] for outcome in told["outcomes"]}) == points
    return told, told["outcomes"]


def test_sigkill_at_any_of_thirty_points_loses_nothing(syncpr, tmp_path):
    told, outcomes = killed_packings(syncpr, tmp_path, 30, "new")
    assert {"_flush", "fsync", "replace"} <= {outcome["touch"] for outcome in outcomes}
    for outcome in outcomes:
        assert outcome["contents"] == told["contents"], outcome["touch"]
    assert len({outcome["root_hash"] for outcome in outcomes}) == 1
    assert not outcomes[0]["published"]
    assert {outcome["written"] for outcome in outcomes} >= {0, 8}  # some resumed with all to do, some with nothing


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_sigkill_while_adding_or_replacing_leaves_the_old_dataset_or_none_and_the_new_is_finished(
    syncpr, tmp_path, mode
):
    told, outcomes = killed_packings(syncpr, tmp_path, 15, mode)
    for outcome in outcomes:
        assert outcome["contents"] == told["contents"], outcome["touch"]
    assert all(outcome["published"] for outcome in outcomes) == (mode == "append")


def test_finished_shards_are_kept_and_the_plan_is_not_made_again(pretrain, tmp_path):
    folder, out = pretrain(14, {6: {"captions": []}}), tmp_path / "out"
    assert pack_and_die(folder, 2) == -signal.SIGKILL
    with pytest.raises(UserError, match="not finished"):
        open_dataset(out)
    done = {path: path.stat().st_ino for path in out.glob("*.parquet")}
    plan = {path: path.stat().st_ino for path in (out / ".plan").iterdir()}
    assert (len(done), len(plan)) == (2, 8)
    planned = []
    again = pack("pretrain_110k", folder, out, shard_samples=3, planning=lambda *counts: planned.append(counts))
    assert (again.images_written, planned) == (7, [])
    assert {path: path.stat().st_ino for path in done} == done
    pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=3)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_shard_damaged_before_the_end_is_written_anew(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die(folder, 4) == -signal.SIGKILL
    for number, ending, position in ((0, ".tar", 600), (1, ".tar.idx", 3), (2, ".parquet", 50)):
        with (out / f"pretrain_110k-train-{number:06d}{ending}").open("r+b") as file:
            file.seek(position)
            file.write(b"?")
    assert pack("pretrain_110k", folder, out, shard_samples=3).images_written == 14 - 3
    pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=3)
    assert contents(out) == contents(tmp_path / "whole")


def test_any_flipped_bit_in_an_index_makes_its_shard_be_written_anew(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die(folder, 2) == -signal.SIGKILL
    out.rename(tmp_path / "killed")
    name = "pretrain_110k-train-000000.parquet"
    whole = (tmp_path / "killed" / name).read_bytes()
    for position in range(0, len(whole), 211):
        shutil.copytree(tmp_path / "killed", out)
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (out / name).write_bytes(damaged)
        assert pack("pretrain_110k", folder, out, shard_samples=3).images_written == 14 - 3
        assert (out / name).read_bytes() == whole
        shutil.rmtree(out)


@pytest.mark.parametrize("marker", [b"", b"[]", b'{"schema_ver', b"\xff"])
def test_a_lost_marker_lets_the_same_job_resume_and_no_other(pretrain, tmp_path, marker):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die(folder, 2) == -signal.SIGKILL
    pretrain(14, {0: {"captions": ["Another caption."]}})
    (out / ".packing.json").write_bytes(marker)
    with pytest.raises(UserError, match="different input"):
        pack("pretrain_110k", folder, out, shard_samples=3)
    pretrain(14)
    assert pack("pretrain_110k", folder, out, shard_samples=3).images_written < 14


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pretrain_110k-train-000001.tar", None),
        ("pretrain_110k-train-000001.tar", b"short"),
        ("pretrain_110k-train-000000.parquet", None),
        ("pretrain_110k-train-000000.tar.idx", None),
        ("rejects.parquet", None),
        ("sizes.json", b"{}"),
    ],
)
def test_the_same_command_mends_a_dataset_that_lost_a_file(pretrain, tmp_path, name, content):
    folder, out = pretrain(14, {2: {"captions": []}}), tmp_path / "out"
    first = pack("pretrain_110k", folder, out, shard_samples=3)
    before = contents(out)
    (out / name).unlink()
    if content is not None:
        (out / name).write_bytes(content)
    if name != "sizes.json":
        with pytest.raises(UserError, match="or pack again"):
            open_dataset(out)
    again = pack("pretrain_110k", folder, out, shard_samples=3)
    assert contents(out) == before
    assert again.images_written == (3 if name.startswith("pretrain") else 0)
    assert again.dataset == first.dataset


@pytest.mark.parametrize(("name", "content"), [("rejects.parquet", b"junk"), ("dataset.json", b"{")])
def test_a_damaged_file_is_mended_by_doing_what_the_message_says(pretrain, tmp_path, name, content):
    folder, out = pretrain(14), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=3)
    before = contents(out)
    (out / name).write_bytes(content)
    with pytest.raises(UserError, match="or remove it and pack again") as error:
        pack("pretrain_110k", folder, out, shard_samples=3)
    assert "\n" not in str(error.value)
    (out / name).unlink()
    assert pack("pretrain_110k", folder, out, shard_samples=3).images_written == 0
    assert contents(out) == before


def test_mending_with_another_input_touches_nothing(pretrain, picture, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=3)
    (out / "pretrain_110k-train-000003.tar").unlink()
    (folder / "imgs/IUSTPersonReID/0_1_0_0.jpg").write_bytes(picture(0) + b"\0")
    before = contents(out)
    with pytest.raises(UserError, match="cannot be mended: the input has changed"):
        pack("pretrain_110k", folder, out, shard_samples=3)
    assert contents(out) == before


def test_shards_of_an_earlier_plan_are_not_left_among_the_published(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    pack("pretrain_110k", folder, out, shard_samples=3)
    (out / "dataset.json").unlink()
    for number in (11, 12, 13):
        (folder / f"imgs/IUSTPersonReID/{number // 2}_1_0_{number}.jpg").unlink()
    pack("pretrain_110k", folder, out, shard_samples=3)
    pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=3)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_damaged_plan_is_noticed_and_made_again(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    for damage in (b"junk", None):
        assert pack_and_die(folder, 2) == -signal.SIGKILL
        plan = out / ".plan" / "pretrain_110k-train-000003.arrow"
        plan.write_bytes(damage or (out / ".plan" / "pretrain_110k-train-000002.arrow").read_bytes())
        with pytest.raises(UserError, match=r"train-000003\.arrow is damaged; pack again"):
            pack("pretrain_110k", folder, out, shard_samples=3)
        assert pack("pretrain_110k", folder, out, shard_samples=3).dataset.counts["images"] == 14
        shutil.rmtree(out)


def test_ctrl_c_leaves_no_temporary_file_and_can_be_resumed(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die(folder, 2, "SIGINT") != 0
    assert not list(out.rglob(".tmp-*"))
    again = pack("pretrain_110k", folder, out, shard_samples=3)
    assert (again.dataset, again.images_written) == (open_dataset(out), 8)


@pytest.mark.parametrize("change", ["longer", "gone"])
def test_an_image_that_changed_since_packing_began_is_told_and_then_packed_as_it_is(pretrain, tmp_path, change):
    folder, out = pretrain(14), tmp_path / "out"
    assert pack_and_die(folder, 2) == -signal.SIGKILL
    image = folder / "imgs/IUSTPersonReID/5_1_0_11.jpg"
    if change == "gone":
        image.unlink()
    else:
        image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"5_1_0_11\.jpg has changed since packing began"):
        pack("pretrain_110k", folder, out, shard_samples=3)
    again = pack("pretrain_110k", folder, out, shard_samples=3)
    assert again.images_written == (2 if change == "gone" else 3) + 2  # of the last shard, and those of val
    pack("pretrain_110k", folder, tmp_path / "whole", shard_samples=3)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_second_packing_into_a_folder_that_is_being_packed_is_refused(pretrain, tmp_path):
    folder, out = pretrain(14), tmp_path / "out"

    def pack_meanwhile(done, total):
        with pytest.raises(UserError, match="another process is packing"):
            pack("pretrain_110k", folder, out, shard_samples=3)
        asked.append(done)

    asked = []
    pack("pretrain_110k", folder, out, shard_samples=3, progress=pack_meanwhile)
    assert asked
    assert open_dataset(out).counts["images"] == 14
