"""CPU cost of drawing and packing people: `python -m tests.benchmarks.sharding_speed` prints one JSON line."""

import json
import sys
import tempfile
import time
from pathlib import Path

from sharding.pack import pack
from sharding.synthetic import LAYOUTS, SOURCE_OF, synthesize

PEOPLE = 200


def measure(layout: str, root: Path) -> dict[str, float]:
    """Images per CPU second drawn (encoding and writing included), and CPU microseconds per image packed."""
    began = time.process_time()
    images = synthesize(layout, people=PEOPLE, out=root / "raw" / layout)
    drawn = time.process_time()
    pack(SOURCE_OF.get(layout, layout), root / "raw" / layout, root / "shards" / layout)
    packed = time.process_time()
    return {
        "images": images,
        "drawn_images_per_cpu_s": round(images / (drawn - began), 1),
        "packed_cpu_us_per_image": round(1e6 * (packed - drawn) / images, 1),
    }


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        measure(LAYOUTS[0], Path(directory) / "warm-up")
        print(json.dumps({layout: measure(layout, Path(directory)) for layout in LAYOUTS}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
