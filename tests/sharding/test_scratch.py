"""Scratch folders go with their context, and with the process that was killed in it, but never before."""

import fcntl
import os
import tempfile

import pytest

from sharding.scratch import YOUNG_SECONDS, scratch_folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def folder(parent, name: str, age: float):
    path = parent / name
    path.mkdir()
    (path / "a.tar").write_bytes(b"1")
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def test_a_scratch_folder_goes_with_its_context(temporary):
    with scratch_folder() as path:
        (path / "a.tar").write_bytes(b"1")
        assert path.parent == temporary
    assert list(temporary.iterdir()) == []


def test_old_folders_that_nobody_holds_are_removed_and_no_others(temporary):
    abandoned = folder(temporary, "sharding-abandoned", YOUNG_SECONDS + 60)
    kept = {
        folder(temporary, "sharding-young", YOUNG_SECONDS - 60),
        folder(temporary, "sharding-held", YOUNG_SECONDS + 60),
        folder(temporary, "somebody-elses", YOUNG_SECONDS + 60),
    }
    held = os.open(temporary / "sharding-held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with scratch_folder() as path:
        assert set(temporary.iterdir()) == {path, *kept}
    os.close(held)
    assert not abandoned.exists()


def test_a_folder_in_use_is_held_for_as_long_as_it_lasts(temporary):
    with scratch_folder() as path:
        os.utime(path, (0, 0))
        with scratch_folder():
            assert path.exists()
