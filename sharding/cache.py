"""Blocks of tars on a fast local disk: what an object store has sent once is not asked for again while it is needed.

    Block (sharding/blocks.py)  ->  file `SHA256-NUMBER-SIZE`, in one folder that processes may share

A folder is only touched if it carries our CACHEDIR.TAG, and of its files only those named as blocks are removed. No
library does this: diskcache and fsspec's caches know neither the future nor one download for several processes.
"""

import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from sharding.blocks import BLOCK_NAME, Block, Kept, eviction_order
from sharding.errors import UserError
from sharding.files import TEMPORARY

log = logging.getLogger(__name__)

TAG = "CACHEDIR.TAG"
TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Blocks of shards, kept by person-pretrain; all of it can be downloaded again (https://bford.info/cachedir/).
"""
USED = "used-bytes"  # the file that holds the sum of all blocks, or more after a crash
TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{32}")
LOCKS = 256  # files that are locked for a download; two blocks that share one wait for each other in vain, but rarely
LOCK_SECONDS = 120.0  # so long a download by somebody else is waited for; he may have been stopped
TOUCH_SECONDS = 60.0  # how exactly the time of the last use is kept
SPARE = 64  # evicting frees a 64th of the cache, for it reads the whole folder


class BlockCache:
    """At most `limit_bytes` of blocks in `directory`, which is made if need be. Threads and processes may share it.

    A block is downloaded by one of them while the others wait; one that is evicted while it is read is read to its end.
    A kill leaves at most temporary files, which the next start or eviction removes. UserError for a folder that cannot
    be written, or that holds files and is not such a cache.
    """

    def __init__(self, directory: Path | str, limit_bytes: int) -> None:
        self.directory, self.limit_bytes = Path(directory), limit_bytes
        self._next_uses: Mapping[str, int] = {}
        self._warned = False
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            claim_folder(self.directory)
            with self._lock(USED) as file:
                self._evict(file, 0)
        except OSError as error:
            raise UserError(f"the cache {self.directory} cannot be used: {error}") from None

    @property
    def is_refused(self) -> bool:
        """Whether the disk has refused blocks: then what is missing is not worth fetching in blocks."""
        return self._warned

    def set_next_uses(self, positions: Mapping[str, int]) -> None:
        """Tell at which position each shard (by sha256) is needed next; it decides what is evicted."""
        self._next_uses = positions

    def __contains__(self, block: Block) -> bool:
        try:
            return os.stat(f"{self.directory}/{block.name}").st_size == block.size  # noqa: PTH116 - a Path costs more
        except OSError:
            return False

    def read(self, block: Block, offset: int, size: int) -> bytes | None:
        """`size` bytes from `offset` on in a block, or None where it is not in the cache."""
        try:
            descriptor = os.open(f"{self.directory}/{block.name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            data = os.pread(descriptor, size, offset)
            status, now = os.fstat(descriptor), time.time()
            if now - status.st_mtime > TOUCH_SECONDS:
                os.utime(descriptor, (now, now))
        except OSError:  # a failing disk: the object store has it too
            return None
        finally:
            os.close(descriptor)
        return data if status.st_size == block.size and len(data) == size else None

    def load(self, block: Block, download: Callable[[], bytes]) -> bytes:
        """A whole block, from the cache or else by `download`, whose result is kept unless it is too short."""
        with self._lock_block(block):
            data = self.read(block, 0, block.size)
            if data is None:
                data = download()
                self._keep(block, data, None)
        return data

    def load_ahead(self, block: Block, download: Callable[[], bytes]) -> bool:
        """Have a block before it is needed; False where it found no room but that of blocks needed no later."""
        with self._lock_block(block):
            if block in self:
                return True
            position = self._next_uses.get(block.sha256, 0)
            if not self._has_room(block, position):
                return False
            data = download()
            return len(data) != block.size or self._keep(
                block, data, position
            )  # of a tar that was cut there is no more

    def drop(self, block: Block) -> None:
        """Remove a block whose bytes proved damaged."""
        with suppress(OSError), self._lock(USED) as file:
            used = _number(file)
            if self._unlink(block.name):
                _set_number(file, used - block.size)

    def _has_room(self, block: Block, position: int) -> bool:
        with suppress(OSError), self._lock(USED) as file:
            return self._make_room(file, block.size, position)
        return False

    def _keep(self, block: Block, data: bytes, position: int | None) -> bool:
        """Whether a block is in the cache now: if it is whole, if there is room, and if the disk takes it."""
        if len(data) != block.size:
            return False
        try:
            with self._lock(USED) as file:
                return self._put(file, block, data, position) or self._put(file, block, data, position)
        except OSError as error:  # the folder is gone, or may not be written any more
            self._warn(error)
            return False

    def _put(self, file: int, block: Block, data: bytes, position: int | None) -> bool:
        """Write a block; where the disk does not take it, be content with less room from now on."""
        if block in self:
            return True
        if not self._make_room(file, block.size, position):
            return False
        try:
            # Counted first: a kill in between makes the sum too large, which the next eviction mends.
            _set_number(file, _number(file) + block.size)
            self._write(block, data)
            return True
        except FileNotFoundError:  # taken for a killed process's by one that no longer waited for this lock
            return False
        except OSError as error:
            used = sum(kept.size for kept in self._scan())
            _set_number(file, used)
            self.limit_bytes = used if error.errno in (errno.ENOSPC, errno.EDQUOT) else 0
            self._warn(error)
            return False

    def _write(self, block: Block, data: bytes) -> None:
        """The file appears whole or not at all, but is not synced: what a power cut makes of it, hashes find."""
        temporary = self.directory / f"{TEMPORARY}{uuid4().hex}"
        try:
            temporary.write_bytes(data)
            temporary.replace(self.directory / block.name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning("the cache %s cannot take more (%s); the run goes on, and may be slower", self.directory, error)
        self._warned = True

    def _make_room(self, file: int, size: int, position: int | None) -> bool:
        """Whether `size` more bytes fit; blocks go for them, but where `position` is given, none needed by then."""
        if size > self.limit_bytes:
            return False
        return _number(file) + size <= self.limit_bytes or self._evict(file, size, position)

    def _evict(self, file: int, size: int, position: int | None = None) -> bool:
        """Read the folder, remove temporary files and as many blocks as must go; whether `size` more bytes fit now."""
        blocks, now = self._scan(), time.time()
        used = sum(block.size for block in blocks)
        if used + size > self.limit_bytes:
            goal = self.limit_bytes - max(size, self.limit_bytes // SPARE)
            for block in eviction_order(blocks, self._next_uses, now, later_than=position):
                if used <= goal:
                    break
                if self._unlink(block.name):
                    used -= block.size
        _set_number(file, used)
        return used + size <= self.limit_bytes

    def _scan(self) -> list[Kept]:
        """The blocks in the folder. Nobody is writing meanwhile, so temporary files are of killed processes."""
        blocks = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if TEMPORARY_NAME.fullmatch(entry.name):
                    self._unlink(entry.name)
                elif BLOCK_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    blocks.append(Kept(entry.name, status.st_size, status.st_mtime))
        return blocks

    def _unlink(self, name: str) -> bool:
        """Remove a file, if it is an ordinary one; whether it was there."""
        path = self.directory / name
        with suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                path.unlink()
                return True
        return False

    @contextmanager
    def _lock(self, name: str) -> Iterator[int]:
        """A file of the folder, open and locked, as far as the file system knows locks and nobody keeps it too long."""
        descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            wait_for_lock(descriptor, LOCK_SECONDS)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _lock_block(self, block: Block) -> Iterator[None]:
        """Nobody else downloads the block meanwhile, unless there is no lock to be had: then it is downloaded twice."""
        name = f"lock-{(int(block.sha256[:8], 16) + block.number) % LOCKS:02x}"
        with ExitStack() as stack:
            with suppress(OSError):
                stack.enter_context(self._lock(name))
            yield


def claim_folder(directory: Path) -> None:
    """Put our CACHEDIR.TAG into an empty folder; UserError for any other that does not carry it."""
    tag = directory / TAG
    for pause in (0.0, 0.1, 0.4):  # another process may be about to write it
        time.sleep(pause)
        with suppress(FileNotFoundError):
            if tag.read_text() == TAG_TEXT:
                return
        if not any(directory.iterdir()):
            with suppress(FileExistsError), tag.open("x") as file:
                file.write(TAG_TEXT)
                return
    raise UserError(f"{directory} holds files and is no cache of this project; name a folder that is empty or new")


def wait_for_lock(descriptor: int, seconds: float) -> bool:
    """Lock an open file exclusively; False after so many seconds, or where the file system has no locks."""
    end, pause = time.monotonic() + seconds, 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
        except OSError:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _number(file: int) -> int:
    """The number that a file holds; one too large to be true where it is damaged, so that the folder is read."""
    text = os.pread(file, 32, 0)
    return int(text) if text.strip().isdigit() else 1 << 62


def _set_number(file: int, number: int) -> None:
    os.pwrite(file, b"%-31d\n" % max(number, 0), 0)  # of one length: none is cut off in the middle
