"""What writing any layout needs: the people drawn so far and the folder they go to.

`Write.photo` draws picture `number` of an identity, keyed so that it is the same whatever was drawn before.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharding.synthetic.camera import Domain, Photo, photograph
from sharding.synthetic.captions import NOISE, Observation, observe
from sharding.synthetic.dice import Dice
from sharding.synthetic.people import Person

Style = Callable[[Observation, Dice], str]
VIEWS = {"front": 45, "back": 28, "side": 27}


@dataclass(frozen=True, kw_only=True)
class Write:
    """One run of `synthesize`: the people of a layout and where their files go."""

    layout: str
    seed: int
    people: int
    root: Path
    progress: Callable[[int, int], None]

    def dice(self, *key: str | int) -> Dice:
        """Draws for one purpose of this layout."""
        return Dice(self.seed, self.layout, *key)

    def photo(self, person: Person, index: int, view: str, number: int, domain: Domain) -> Photo:
        """Picture `number` of identity `index`."""
        return photograph(person, view, domain, self.dice("photo", index, number), self.dice("shade", index))

    def captions(self, person: Person, index: int, view: str, number: int, count: int, style: Style) -> list[str]:
        """`count` captions of one picture in one style, each by its own annotator."""
        return self.captions_in([style] * count, person, index, view, number)

    def captions_in(self, styles: list[Style], person: Person, index: int, view: str, number: int) -> list[str]:
        """One caption of one picture in each of the styles, each by its own annotator."""
        texts = []
        for annotator, style in enumerate(styles):
            dice = self.dice("caption", index, number, annotator)
            texts.append(style(observe(person, view, NOISE[self.layout], dice), dice))
        return texts

    def save(self, path: str, content: bytes) -> None:
        """Write a file below the root, which is made up to its folder."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def save_json(self, path: str, rows: list[dict[str, Any]]) -> None:
        """Write a list of records."""
        self.save(path, (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode())
