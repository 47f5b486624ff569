"""Samples to look at: `sharding show` picks some of a packed dataset and puts them on one page or in one picture.

place → rows (by seed, by person, by key) → their bytes alone → HTML (page.html.j2) or PNG, JPEG (contact_sheet.py)
"""

import base64
import io
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.dataset import Dataset, open_dataset, read_index, shards_of
from sharding.errors import UserError
from sharding.files import write_durably
from sharding.index import Shard
from sharding.store import Store

if TYPE_CHECKING:
    import pyarrow

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
FORMS = (".html", *PICTURES)
EMBEDDED_AS_IT_IS = 640  # pixels a side, and 256 KiB: a larger image is shrunk for the page
EMBEDDED_BYTES = 256 << 10
COLUMNS = ["key", "ext", "identity", "split", "score", "width", "height"]
LOCATED = [f"{member}_{what}" for member in ("image", "json") for what in ("offset", "size", "sha256")]
Rows = dict[str, list[tuple[int, int]]]  # heading → (number of the shard, row in it); one "" where there are no groups


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which samples are shown: the `keys`, or people (`identities`, or `count` by the seed), or `count` images by it.

    `split` None means all of them; of a person at most `most` images are shown, the first in packing order.
    """

    split: str | None = None
    count: int = 24
    seed: int = 0
    by_identity: bool = False
    identities: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    most: int = 6


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sample as it is shown."""

    key: str
    ext: str
    identity: str
    split: str
    score: float | None
    width: int
    height: int
    captions: tuple[str, ...]
    image: bytes

    @property
    def uri(self) -> str:
        """The image for a page: as it is, or shrunk where it is large."""
        data, kind = self.image, "png" if self.ext == "png" else "jpeg"
        if max(self.width, self.height) > EMBEDDED_AS_IT_IS or len(data) > EMBEDDED_BYTES:
            from sharding.show.contact_sheet import decoded  # late: Pillow

            buffer = io.BytesIO()
            decoded(data, (EMBEDDED_AS_IT_IS, EMBEDDED_AS_IT_IS)).save(buffer, "JPEG", quality=90)
            data, kind = buffer.getvalue(), "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def show(place: Path | str | Store, out: Path, choice: Choice, *, columns: int = 6) -> dict[str, list[Picture]]:
    """Write the chosen samples to `out`, an .html page or a .png or .jpg with `columns` pictures in a row.

    Returns them by heading: identities, or "" where they are not grouped. The same dataset and choice give the same
    file. Raises UserError for a choice of nothing, an unknown form, or bytes that are not those that were packed.
    """
    check_output(out)
    dataset = open_dataset(place)
    groups = read_pictures(dataset, choose(dataset, choice))
    if out.suffix.lower() == ".html":
        data = page(dataset, choice, groups).encode(errors="replace")
    else:
        from sharding.show.contact_sheet import picture_bytes  # late: Pillow

        data = picture_bytes(groups, columns, PICTURES[out.suffix.lower()])
    write_durably(out, data)
    return groups


def check_output(out: Path) -> None:
    """UserError unless `out` can be written as a page or a picture."""
    if out.suffix.lower() not in FORMS:
        raise UserError(f"{out} is neither a page nor a picture: name it with one of {', '.join(FORMS)}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder {out.absolute().parent}")
    if out.is_dir():
        raise UserError(f"{out} is a folder")


def choose(dataset: Dataset, choice: Choice) -> Rows:
    """The rows to show; UserError where there are none."""
    shards = dataset.shards if choice.split is None else shards_of(dataset, choice.split)
    numbers = [number for number, shard in enumerate(dataset.shards) if shard in shards and shard.samples]
    if not numbers:
        raise UserError(f"{dataset.store} holds no samples")
    if choice.keys:
        found = _find(dataset, numbers, "key", choice.keys)
        return {"": [found[key][0] for key in dict.fromkeys(choice.keys)]}
    if choice.identities or choice.by_identity:
        people = choice.identities or _some_people(dataset, numbers, choice)
        found = _find(dataset, numbers, "identity", people)
        return {person: found[person][: choice.most] for person in dict.fromkeys(people)}
    total = sum(dataset.shards[number].samples for number in numbers)
    chosen = random.Random(choice.seed).sample(range(total), min(choice.count, total))
    return {"": _places(dataset, numbers, sorted(chosen))}


def _places(dataset: Dataset, numbers: Sequence[int], samples: Iterable[int]) -> list[tuple[int, int]]:
    """Where the samples lie that are counted through those shards, in ascending order."""
    places, shards, begin = [], iter(numbers), 0
    number = next(shards)
    for sample in samples:
        while sample - begin >= dataset.shards[number].samples:
            begin += dataset.shards[number].samples
            number = next(shards)
        places.append((number, sample - begin))
    return places


def _some_people(dataset: Dataset, numbers: Sequence[int], choice: Choice) -> list[str]:
    """`count` people by the seed, in packing order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    met = [read_index(dataset, dataset.shards[number], ["identity"])["identity"] for number in numbers]
    people = pc.unique(pa.chunked_array([chunk for column in met for chunk in column.chunks]))
    chosen = random.Random(choice.seed).sample(range(len(people)), min(choice.count, len(people)))
    return [people[place].as_py() for place in sorted(chosen)]


def _find(
    dataset: Dataset, numbers: Sequence[int], column: str, wanted: Sequence[str]
) -> dict[str, list[tuple[int, int]]]:
    """The rows whose `column` is one of the values; UserError for a value that no row has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, list[tuple[int, int]]] = {}
    values = pa.array(list(wanted), pa.string())
    for number in numbers:
        cells = read_index(dataset, dataset.shards[number], [column])[column].combine_chunks()
        rows = pc.indices_nonzero(pc.is_in(cells, values)).to_pylist()
        for row in rows:
            found.setdefault(cells[row].as_py(), []).append((number, row))
    for value in wanted:
        if value not in found:
            example = read_index(dataset, dataset.shards[numbers[0]], [column])[column][0].as_py()
            raise UserError(f"{dataset.store} has no {column} {value!r}; one that it has: {example}")
    return found


def read_pictures(dataset: Dataset, rows: Rows) -> dict[str, list[Picture]]:
    """The samples at those places, a request for each where they lie apart."""
    places = sorted({place for chosen in rows.values() for place in chosen})
    by_shard: dict[int, list[int]] = {}
    for number, row in places:
        by_shard.setdefault(number, []).append(row)
    pictures: dict[tuple[int, int], Picture] = {}
    for number, wanted in by_shard.items():
        shard = dataset.shards[number]
        table = read_index(dataset, shard, [*COLUMNS, *LOCATED]).take(wanted)
        read = _read(dataset, shard, table)
        pictures |= {(number, row): picture for row, picture in zip(wanted, read, strict=True)}
    return {heading: [pictures[place] for place in chosen] for heading, chosen in rows.items()}


def _read(dataset: Dataset, shard: Shard, table: "pyarrow.Table") -> list[Picture]:
    from sharding.members import read_members  # late: numpy

    return [
        Picture(**row, captions=tuple(json.loads(metadata)["captions"]), image=image)
        for row, (image, metadata) in zip(
            table.select(COLUMNS).to_pylist(), read_members(dataset, shard, table, ("image", "json")), strict=True
        )
    ]


def page(dataset: Dataset, choice: Choice, groups: dict[str, list[Picture]]) -> str:
    """The page as HTML; whatever comes from the dataset is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        dataset=dataset, groups=groups, how=how_chosen(choice, groups), counts=dataset.counts
    )


def how_chosen(choice: Choice, groups: dict[str, list[Any]]) -> str:
    """One line on what is shown, enough to choose the same again."""
    images = sum(map(len, groups.values()))
    where = f"split {choice.split}" if choice.split else "all splits"
    if choice.keys:
        return f"{images} images by their keys"
    if choice.identities or choice.by_identity:
        how = "by their identities" if choice.identities else f"at random, seed {choice.seed}"
        return f"{images} images of {len(groups)} people, {how}; {where}; at most {choice.most} of each"
    return f"{images} images at random, seed {choice.seed}; {where}"
