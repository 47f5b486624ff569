"""Tiny raw datasets, written by hand in the layouts that are packed."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.sharding.s3_servers import faulty, moto_server, radosgw, s3_environment  # noqa: F401


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """A function (seed, format) → the bytes of an image 8 wide and 16 high."""

    def draw(seed: int = 0, form: str = "JPEG", mode: str = "RGB") -> bytes:
        image = Image.new("RGB", (8, 16), (seed * 37 % 256, seed * 91 % 256, 60))
        image.putpixel((seed % 8, seed % 16), (255, 255, 255))
        buffer = io.BytesIO()
        image.convert("L" if mode.startswith("I") else mode).convert(mode).save(buffer, form)
        return buffer.getvalue()

    return draw


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[..., Path]:
    """A function (file name, rows, {path below the folder: bytes}) → the folder of a raw dataset with these files."""

    def write(name: str, rows: Any, images: dict[str, bytes]) -> Path:
        folder = tmp_path / "raw"
        for path, data in images.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(rows))
        return folder

    return write


@pytest.fixture
def pretrain(write_json: Callable[..., Path], picture: Callable[..., bytes]) -> Callable[..., Path]:
    """A function (number of images, changes by row) → a PRETRAIN_110K folder; every fifth image is of split val."""

    def write(images: int = 12, changes: dict[int, dict[str, Any]] | None = None) -> Path:
        rows = [
            {
                "file_path": f"IUSTPersonReID/{number // 2}_1_0_{number}.jpg",
                "captions": [f"A man in coat {number}.", f"Person {number} walks past a café."],
                "split": "val" if number % 5 == 4 else "train",
                "score": 3.5,
                "ID": str(number // 2),
                "id": 7 * (number // 2),
                "source": "IUST_PersonReID",
                **(changes or {}).get(number, {}),
            }
            for number in range(images)
        ]
        files = {f"imgs/IUSTPersonReID/{n // 2}_1_0_{n}.jpg": picture(n) for n in range(images)}
        return write_json("PRETRAIN_110K.json", rows, files)

    return write
