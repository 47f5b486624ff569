"""Packed datasets made of samples named one by one, for tests whose figures are counted by hand."""

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sharding.dataset import Dataset
from sharding.pack import pack
from sharding.store import Store, open_store


@dataclass(frozen=True, kw_only=True)
class Made:
    """One sample to be packed; equal colours and sizes give equal image bytes, `damaged` ones do not decode."""

    person: str
    split: str = "train"
    source: str = "street"
    captions: tuple[str, ...] = ()
    colour: tuple[int, int, int] = (90, 120, 60)
    size: tuple[int, int] = (20, 50)
    score: float | None = None
    damaged: bool = False

    @property
    def image(self) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", self.size, self.colour).save(buffer, "PNG")
        data = buffer.getvalue()
        return data.replace(data[data.index(b"IDAT") + 4 :][:12], bytes(12)) if self.damaged else data

    def row(self, image: str) -> dict[str, Any]:
        """The sample as a line of `data.jsonl`."""
        row = {"image": image, "captions": list(self.captions), "identity": self.person, "split": self.split}
        return {**row, "source": self.source, "score": self.score}


def write_dataset(place: Path | Store, samples: Sequence[Made], *, missing: int = 0, shard_samples: int = 3) -> Dataset:
    """The samples packed as `made`, keys `made-000000000` … in the order given; `missing` rows have no image."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [sample.row(f"{number}.png") for number, sample in enumerate(samples)]
        rows += [{"image": f"missing-{number}.png"} for number in range(missing)]
        (Path(folder) / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for number, sample in enumerate(samples):
            (Path(folder) / f"{number}.png").write_bytes(sample.image)
        return pack("jsonl", Path(folder), open_store(place), name="made", shard_samples=shard_samples).dataset
