"""ITCPR: composed retrieval of real people, who meet the cameras of three corpora again in other clothes.

A query is a photo of a person and an edit of the clothes; to be found are photos of the same person so dressed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sharding.synthetic.camera import CEILING, SHOPFRONT, VIDEO_SCENES, Domain
from sharding.synthetic.dice import Dice
from sharding.synthetic.people import FAMILY_SIZE, Person, redraw
from sharding.synthetic.syncpr import Quadruple, quadruple, shows
from sharding.synthetic.write import VIEWS, Write

CORPORA: dict[str, Domain] = {"Celeb-reID": VIDEO_SCENES, "PRCC": CEILING, "LAST": SHOPFRONT}
DISTRACTOR = -1  # the instance_id of a gallery image that no query asks for


@dataclass(frozen=True, kw_only=True)
class Album:
    """One person's photos so far and the rows of both annotations, which everybody's albums share."""

    write: Write
    index: int
    corpus: str
    person_id: int
    base: Quadruple
    dice: Dice
    queries: list[dict[str, Any]]
    gallery: list[dict[str, Any]]
    paths: list[str] = field(default_factory=list)

    def row(self, path: str, instance_id: int) -> dict[str, Any]:
        """A row of the gallery; a query's has a caption too."""
        return {"file_path": path, "datasets": self.corpus, "person_id": self.person_id, "instance_id": instance_id}

    def photo(self, person: Person) -> str:
        """Take one more photo, which shows whatever the edit is about; returns its path."""
        number = len(self.paths)
        view = self.dice.weighted({view: VIEWS[view] for view in VIEWS if shows(person, view, self.base.changed)})
        path = image_path(self.corpus, self.person_id, number, self.dice)
        self.write.save(path, self.write.photo(person, self.index, view, number, CORPORA[self.corpus]).encode("jpg"))
        self.paths.append(path)
        return path

    def ask(self, side: int, instance_id: int, *, targets: int = 1, known: tuple[str, ...] = ()) -> tuple[str, ...]:
        """One query from the clothes of one side to those of the other; returns the gallery images that answer it.

        These are the images `known` or, where there are none, `targets` new ones.
        """
        here, there = (self.base.reference, self.base.target)[:: 1 - 2 * side]
        query = self.row(self.photo(here), instance_id)
        self.queries.append({**query, "caption": self.base.edits[side]})
        answers = known or tuple(self.photo(there) for _ in range(targets))
        self.gallery.extend(self.row(path, instance_id) for path in answers)
        return answers

    def distract(self, person: Person, *, listed: int = 1) -> None:
        """A photo that no query asks for, listed so many times."""
        self.gallery.extend([self.row(self.photo(person), DISTRACTOR)] * listed)

    def other_clothes(self) -> Person:
        """The person in clothes of neither side."""
        return redraw(redraw(self.base.reference, "upper", self.dice, fine=False), "shoes", self.dice, fine=False)


def write_itcpr(write: Write) -> int:
    """`query.json`, `gallery.json` and the images below a folder for each corpus, which numbers its people itself.

    Three people of four are asked for. The original's traps: a query is answered by one to five images, two images are
    in the gallery twice (one answers two queries, one is a distractor), folders are called train and val though all of
    it is for testing, and the gallery is mostly distractors, with the same people in other clothes.
    """
    queries: list[dict[str, Any]] = []
    gallery: list[dict[str, Any]] = []
    images = 0
    numbers = iter(range(1, 2 * write.people + 1))
    for index in range(write.people):
        corpus, person_id = corpus_and_id(index)
        album = Album(
            write=write,
            index=index,
            corpus=corpus,
            person_id=person_id,
            base=quadruple(write.layout, write.seed, index),
            dice=write.dice("album", index),
            queries=queries,
            gallery=gallery,
        )
        if index % 4 != 3:
            ask_for(album, numbers)
        for number in range(album.dice.count(3, 7)):
            album.distract(album.other_clothes(), listed=2 if index == 6 and number == 0 else 1)
        images += len(album.paths)
        write.progress(index + 1, write.people)
    write.save_json("query.json", queries)
    write.save_json("gallery.json", gallery)
    return images


def ask_for(album: Album, numbers: Iterator[int]) -> None:
    """The queries of one person: there, at times back again, and once a second time to an image found before.

    Whoever is not asked for in the clothes of the first query is in the gallery in them.
    """
    index = album.index
    answers = album.ask(0, next(numbers), targets=2 + index // 16 % 4 if index % 16 == 4 else 1)
    if index % 8 == 2:
        album.ask(1, next(numbers))
        return
    if index == 5:
        album.ask(0, next(numbers), known=answers)
    album.distract(album.base.reference)


def corpus_and_id(index: int) -> tuple[str, int]:
    """The corpus of person `index`, which look-alikes share, and their number there, from 1."""
    block, member = divmod(index, FAMILY_SIZE)
    return [*CORPORA][block % len(CORPORA)], FAMILY_SIZE * (block // len(CORPORA)) + member + 1


def image_path(corpus: str, person_id: int, number: int, dice: Dice) -> str:
    """Where photo `number` of a person lies, named as the corpus names its files."""
    if corpus == "Celeb-reID":
        return f"Celeb-reID/{person_id:03d}/{person_id}_{number + 1}_0.jpg"
    if corpus == "PRCC":
        folder, camera = dice.pick(("train", "val")), dice.pick(("A", "B", "C"))
        return f"PRCC/{folder}/{person_id:03d}/{camera}_cropped_rgb{10 * number + dice.count(1, 9):03d}.jpg"
    return f"LAST/{person_id:06d}/{person_id:06d}_s{dice.count(1, 400):03d}_{10 * number + dice.count(0, 9):06d}.jpg"
