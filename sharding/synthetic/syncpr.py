"""SynCPR: generated people in pairs that an edit tells apart, for composed retrieval.

A `Quadruple` is what such corpora are made from: two people, their captions and the edit told both ways. ITCPR, in
itcpr.py, is made from the same.
"""

from dataclasses import dataclass, replace
from typing import Any

from sharding.synthetic.camera import GENERATOR, Photo
from sharding.synthetic.captions import NOISE, composed_caption, edit_caption, observe
from sharding.synthetic.dice import Dice
from sharding.synthetic.people import Person, identity, random_person, redraw
from sharding.synthetic.words import phrase, shows_second, tellable
from sharding.synthetic.write import VIEWS, Write

SYNCPR_EDITABLE = ("upper", "lower", "shoes", "bag", "hat", "glasses", "scarf", "carried")
SYNCPR_EXTRA = {"": 70, "upper": 10, "lower": 10, "hair": 10}  # told beyond a changed garment
SYNCPR_REUSED_REFERENCE = 0.2  # how often a reference is paired with a second target of its quadruple


@dataclass(frozen=True, kw_only=True)
class Quadruple:
    """SynCPR's textual base: two people that differ by an edit, their captions, and the edit told both ways."""

    reference: Person
    target: Person
    changed: tuple[str, ...]
    told: tuple[str, ...]
    captions: tuple[str, str]
    edits: tuple[str, str]


def quadruple(layout: str, seed: int, index: int) -> Quadruple:
    """Textual quadruple `index`: captions tell what changes and at most one thing more; what stays keeps its words."""

    def worded(person: Person, name: str) -> str:
        dice = Dice(seed, layout, "wording", index, name)
        return "" if getattr(person, name) is None else phrase(name, person, dice)

    dice = Dice(seed, layout, "quadruple", index)
    reference = target = identity(layout, seed, index)
    editable = [name for name in SYNCPR_EDITABLE if name != "lower" or reference.lower is not None]
    changed = tuple(sorted(dice.shuffled(editable)[: dice.pick((1, 1, 2))], key=SYNCPR_EDITABLE.index))
    for name in changed:
        while worded(target, name) == worded(reference, name):  # sleeves may change without a word of the text
            target = redraw(target, name, dice, fine=False)
    extra = dice.weighted(SYNCPR_EXTRA)
    if not {"upper", "lower", "shoes"} & set(changed) or (extra == "hair" and "hat" in changed):
        extra = "upper"  # a caption needs a garment, and a hat may hide the hair
    told = tuple(name for name in ("hair", *SYNCPR_EDITABLE) if name in (*changed, extra))
    wording = [
        {name: worded(person, name) for name in told if getattr(person, name) is not None}
        for person in (reference, target)
    ]
    texts = [
        composed_caption(person, list(words), words, Dice(seed, layout, "caption", index))
        for person, words in zip((reference, target), wording, strict=True)
    ]
    edits = edit_caption(reference, target, changed, wording[1]), edit_caption(target, reference, changed, wording[0])
    return Quadruple(
        reference=reference, target=target, changed=changed, told=told, captions=(texts[0], texts[1]), edits=edits
    )


def write_syncpr(write: Write) -> int:
    """`SynCPR.json` and PNGs below `test*/sub_img/`: every pair in both directions, paths relative to the JSON file."""
    rows: list[dict[str, Any]] = []
    quadruples, images = max(1, write.people // 2), 0
    for index in range(quadruples):
        base, dice = quadruple(write.layout, write.seed, index), write.dice("pairs", index)
        folder, pairs = f"test{1 + index % 3}/sub_img", dice.count(1, 4)
        paths = []
        for pair in range(pairs):
            sides = f"{folder}/img_left/{index}-{pair}_left.png", f"{folder}/img_right/{index}-{pair}_right.png"
            for path, photo in zip(sides, generated_pair(write, base, index, pair), strict=True):
                write.save(path, photo.encode("png"))
            paths.append(sides)
            images += 2
        couples = list(paths)
        if pairs > 1 and dice.chance(SYNCPR_REUSED_REFERENCE):
            couples.append((paths[0][0], paths[1][1]))
        for couple in couples:
            for here, there in ((0, 1), (1, 0)):
                rows.append({
                    "reference_caption": base.captions[here],
                    "target_caption": base.captions[there],
                    "reference_image_path": couple[here],
                    "target_image_path": couple[there],
                    "edit_caption": base.edits[here],
                    "cpr_id": 2 * index + here,
                })  # fmt: skip
        write.progress(index + 1, quadruples)
    write.save_json("SynCPR.json", rows)
    return images


def generated_pair(write: Write, base: Quadruple, index: int, pair: int) -> tuple[Photo, Photo]:
    """Both pictures of a pair: what the captions leave open is drawn anew for every pair, and shared within it."""
    dice = write.dice("pair", index, pair)
    views: list[dict[str, int]] = [{}]
    while not all(views):  # a hat may hide hair that is told
        free = random_person(dice, gender=base.reference.gender, age=base.reference.age)
        drawn = [like(person, free, base.told) for person in (base.reference, base.target)]
        views = [{view: VIEWS[view] for view in VIEWS if shows(person, view, base.told)} for person in drawn]
    photos = []
    for side, person in enumerate(drawn):
        view = dice.weighted(views[side])
        person = observe(person, view, NOISE[write.layout], dice).person
        photos.append(write.photo(person, index, view, 2 * pair + side, GENERATOR))
    return photos[0], photos[1]


def like(person: Person, free: Person, told: tuple[str, ...]) -> Person:
    """The free person with what is told of the other; the clothes go together and so come along."""
    return replace(free, **{name: getattr(person, name) for name in ("upper", "lower", *told)})


def shows(person: Person, view: str, told: tuple[str, ...]) -> bool:
    """Whether everything told can be seen in a view."""
    if "upper" in told and person.upper.pattern != "plain" and not shows_second(person, view):
        return False
    return all(name in tellable(person, view) for name in told if getattr(person, name) is not None)
