"""Who the synthetic people are: attributes, identities and families of look-alikes.

A `Person` is everything that picture and caption are made from. Half of the identities, in the ultra-fine benchmark all
of them, come in families of four whose members differ from each other in one or two fine details only, which is what
makes retrieval hard.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from sharding.synthetic.dice import Dice

# Weights follow the street: dark and neutral clothes are common, so a colour alone rarely names a person.
CLOTHES_COLOURS = {
    "black": 16, "white": 14, "grey": 12, "blue": 9, "navy": 8, "red": 8, "green": 6, "light blue": 6,
    "pink": 5, "beige": 5, "brown": 4, "yellow": 3, "purple": 3, "orange": 3,
}  # fmt: skip
TROUSER_COLOURS = {"black": 26, "blue": 12, "navy": 14, "grey": 13, "beige": 10, "brown": 6, "white": 6, "green": 4}
JEANS_COLOURS = {"blue": 34, "navy": 26, "light blue": 18, "black": 14, "grey": 8}
SHOE_COLOURS = {
    "black": 26, "white": 26, "brown": 10, "grey": 9, "red": 7, "blue": 7, "beige": 6, "green": 4, "pink": 4,
}  # fmt: skip
BAG_COLOURS = {
    "black": 24, "brown": 13, "red": 11, "blue": 11, "grey": 9, "beige": 8, "green": 8, "pink": 6, "yellow": 5,
}  # fmt: skip
HAT_COLOURS = {"black": 22, "white": 16, "red": 14, "blue": 12, "beige": 10, "grey": 10, "green": 8, "pink": 6}
HAIR_COLOURS = {"black": 44, "brown": 32, "blond": 14, "red": 4, "grey": 6}
ELDERLY_HAIR_COLOURS = {"grey": 70, "black": 20, "brown": 10}
HAIR_STYLES = {
    "man": {"short": 66, "bald": 8, "curly": 16, "long": 5, "bun": 5},
    "woman": {"long": 36, "bob": 17, "ponytail": 20, "bun": 12, "curly": 8, "short": 7},
}
SKINS = {"fair": 42, "tan": 30, "brown": 16, "dark": 12}
AGES = {"young": 56, "middle-aged": 30, "elderly": 14}
BUILDS = {"slim": 34, "average": 42, "stocky": 24}
UPPERS = {
    "man": {
        "t-shirt": 26, "shirt": 20, "sweater": 12, "hoodie": 12, "jacket": 14, "blazer": 8, "coat": 5, "tank top": 3,
    },
    "woman": {
        "t-shirt": 20, "shirt": 14, "sweater": 15, "hoodie": 8, "jacket": 11, "blazer": 5, "coat": 9, "tank top": 6,
        "dress": 12,
    },
}  # fmt: skip
LOWERS = {
    "man": {"trousers": 38, "jeans": 32, "shorts": 20, "tracksuit bottoms": 10},
    "woman": {"trousers": 18, "jeans": 24, "shorts": 12, "skirt": 24, "leggings": 14, "wide-leg trousers": 8},
}
PATTERNS = {"plain": 54, "striped": 14, "checked": 9, "dotted": 6, "printed": 11, "two-tone": 6}
OUTERWEAR = ("jacket", "blazer", "coat")  # worn open over a shirt of the second colour, never patterned
SLEEVES = {
    "t-shirt": ("short",), "shirt": ("long", "short"), "sweater": ("long",), "hoodie": ("long",), "jacket": ("long",),
    "blazer": ("long",), "coat": ("long",), "tank top": ("none",), "dress": ("short", "none", "long"),
}  # fmt: skip
LOWER_LENGTHS = {
    "trousers": ("long",), "wide-leg trousers": ("long",), "tracksuit bottoms": ("long",), "jeans": ("long", "cropped"),
    "leggings": ("long", "cropped"), "shorts": ("knee-length", "short"), "skirt": ("short", "knee-length", "long"),
}  # fmt: skip
SHOES = {
    "man": {"trainers": 54, "leather shoes": 22, "boots": 14, "sandals": 10},
    "woman": {"trainers": 44, "heels": 16, "boots": 17, "sandals": 13, "flat shoes": 10},
}
BAGS = {
    "man": {"backpack": 56, "shoulder bag": 28, "suitcase": 8, "tote bag": 8},
    "woman": {"backpack": 30, "handbag": 28, "shoulder bag": 24, "tote bag": 12, "suitcase": 6},
}
HATS = {"cap": 58, "beanie": 26, "sun hat": 16}
GLASSES = {"glasses": 70, "sunglasses": 30}
CARRIED = {"phone": 32, "water bottle": 18, "umbrella": 16, "coffee cup": 12, "book": 10, "shopping bag": 12}

BAG_RATE, HAT_RATE, GLASSES_RATE, SCARF_RATE, CARRIED_RATE = 0.6, 0.24, 0.26, 0.09, 0.3
FAMILY_SIZE = 4  # look-alikes in one family: two details, each in two forms
FAMILY_EVERY = 8  # one family opens every block of this many identities, so half of all have look-alikes
CROWDED = {"ufine6926": FAMILY_SIZE}  # layouts whose blocks are shorter: here a block is one family, nobody is alone
FINE_DETAILS = {
    "shoes": 20, "bag": 22, "hat": 14, "glasses": 9, "scarf": 7, "carried": 10, "hair": 8, "upper": 16, "lower": 8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Item:
    """A thing of one kind and colour: hair, shoes, a bag or a hat."""

    kind: str
    colour: str


@dataclass(frozen=True, kw_only=True)
class Upper:
    """The upper garment; `second` is the colour of its pattern, or of the shirt below an open jacket."""

    kind: str
    colour: str
    pattern: str
    second: str
    sleeve: str


@dataclass(frozen=True, kw_only=True)
class Lower:
    """The lower garment; below a dress there is none."""

    kind: str
    colour: str
    length: str


@dataclass(frozen=True, kw_only=True)
class Person:
    """One identity; every field is one attribute that a caption may name and a look-alike may change."""

    gender: str
    age: str
    build: str
    skin: str
    hair: Item
    upper: Upper
    lower: Lower | None
    shoes: Item
    bag: Item | None
    hat: Item | None
    glasses: str | None
    scarf: str | None
    carried: str | None


ATTRIBUTES = tuple(field.name for field in fields(Person))


def differences(one: Person, other: Person) -> tuple[str, ...]:
    """Names of the attributes in which two people differ."""
    return tuple(name for name in ATTRIBUTES if getattr(one, name) != getattr(other, name))


def identity(layout: str, seed: int, index: int) -> Person:
    """Person `index` (from 0) of a layout; layouts share the vocabulary but, keyed by name, no people."""
    block, member = divmod(index, CROWDED.get(layout, FAMILY_EVERY))
    if member >= FAMILY_SIZE:
        return random_person(Dice(seed, layout, "identity", index))
    return family(layout, seed, block)[member]


def family(layout: str, seed: int, block: int) -> tuple[Person, ...]:
    """The `FAMILY_SIZE` look-alikes that open a block: every two differ in one or two attributes."""
    dice = Dice(seed, layout, "family", block)
    base = random_person(dice)
    details = dict(FINE_DETAILS)
    if base.lower is None or len(lower_lengths(base.lower.kind, base.upper)) == 1:
        del details["lower"]
    first = dice.weighted(details)
    del details[first]
    second = dice.weighted(details)
    changed_first = redraw(base, first, dice, fine=True)
    changed_second = redraw(base, second, dice, fine=True)
    changed_both = replace(changed_first, **{second: getattr(changed_second, second)})
    return base, changed_first, changed_second, changed_both


def random_person(dice: Dice, *, gender: str | None = None, age: str | None = None) -> Person:
    """A person drawn from the vocabulary; hair, clothes, shoes and bags depend on gender, hair also on age."""
    gender = gender or dice.pick(("man", "woman"))
    age = age or dice.weighted(AGES)
    hair_colours = ELDERLY_HAIR_COLOURS if age == "elderly" else HAIR_COLOURS
    upper = random_upper(gender, dice)
    hat = Item(kind=dice.weighted(HATS), colour=dice.weighted(HAT_COLOURS)) if dice.chance(HAT_RATE) else None
    return Person(
        gender=gender,
        age=age,
        build=dice.weighted(BUILDS),
        skin=dice.weighted(SKINS),
        hair=random_hair(gender, hair_colours, dice),
        upper=upper,
        lower=None if upper.kind == "dress" else random_lower(gender, upper, dice),
        shoes=random_shoes(gender, dice),
        bag=random_bag(gender, dice) if dice.chance(BAG_RATE) else None,
        hat=hat,
        glasses=dice.weighted(GLASSES) if dice.chance(GLASSES_RATE) else None,
        scarf=dice.weighted(CLOTHES_COLOURS) if dice.chance(SCARF_RATE) else None,
        carried=dice.weighted(CARRIED) if dice.chance(CARRIED_RATE) else None,
    )


def random_hair(gender: str, colours: dict[str, int], dice: Dice) -> Item:
    """Hair; a bald head has no colour to tell."""
    kind = dice.weighted(HAIR_STYLES[gender])
    return Item(kind=kind, colour="black" if kind == "bald" else dice.weighted(colours))


def random_upper(gender: str, dice: Dice, kind: str | None = None) -> Upper:
    """An upper garment; its second colour differs from the first unless it is plain."""
    kind = kind or dice.weighted(UPPERS[gender])
    colour = dice.weighted(CLOTHES_COLOURS)
    pattern = "open" if kind in OUTERWEAR else dice.weighted(PATTERNS)
    second = colour if pattern == "plain" else other_colour(colour, CLOTHES_COLOURS, dice)
    return Upper(kind=kind, colour=colour, pattern=pattern, second=second, sleeve=dice.pick(SLEEVES[kind]))


def random_lower(gender: str, upper: Upper, dice: Dice) -> Lower:
    """A lower garment that goes with the upper one; denim comes in denim's colours."""
    kind = dice.weighted(LOWERS[gender])
    colours = {"jeans": JEANS_COLOURS, "skirt": CLOTHES_COLOURS}.get(kind, TROUSER_COLOURS)
    return Lower(kind=kind, colour=dice.weighted(colours), length=dice.pick(lower_lengths(kind, upper)))


def lower_lengths(kind: str, upper: Upper) -> tuple[str, ...]:
    """The lengths of a lower garment; a coat would hide a short one."""
    return tuple(length for length in LOWER_LENGTHS[kind] if not (upper.kind == "coat" and length == "short"))


def random_shoes(gender: str, dice: Dice) -> Item:
    """A pair of shoes; leather shoes are black or brown."""
    kind = dice.weighted(SHOES[gender])
    return Item(
        kind=kind, colour=dice.pick(("black", "brown")) if kind == "leather shoes" else dice.weighted(SHOE_COLOURS)
    )


def random_bag(gender: str, dice: Dice) -> Item:
    """A bag of any kind and colour."""
    return Item(kind=dice.weighted(BAGS[gender]), colour=dice.weighted(BAG_COLOURS))


def other_colour(colour: str, colours: dict[str, int], dice: Dice) -> str:
    """A colour other than the given one, and not one that a low-resolution camera confuses with it."""
    near = {"black": "navy", "navy": "black", "white": "light blue", "light blue": "white"}.get(colour)
    return dice.weighted({name: weight for name, weight in colours.items() if name not in (colour, near)})


def redraw(person: Person, name: str, dice: Dice, *, fine: bool) -> Person:
    """The person with one attribute changed; `fine` keeps the garment itself and changes a detail of it."""
    value = getattr(person, name)
    for _ in range(100):
        changed = fine_value(person, name, dice) if fine else coarse_value(person, name, dice)
        if changed != value:
            return replace(person, **{name: changed})
    raise AssertionError(f"attribute {name} has only one value")


def fine_value(person: Person, name: str, dice: Dice) -> Any:
    """A value for one attribute that only a close look tells from the present one."""
    upper = person.upper
    if name == "upper":
        pattern = dice.pick(("striped", "checked", "dotted", "printed")) if upper.pattern == "plain" else upper.pattern
        return replace(upper, pattern=pattern, second=other_colour(upper.colour, CLOTHES_COLOURS, dice))
    if name == "lower" and person.lower is not None:
        return replace(person.lower, length=dice.pick(lower_lengths(person.lower.kind, upper)))
    return coarse_value(person, name, dice)


def coarse_value(person: Person, name: str, dice: Dice) -> Any:
    """A freshly drawn value for one attribute, present or absent as in `random_person`."""
    if name == "lower":
        return None if person.upper.kind == "dress" else random_lower(person.gender, person.upper, dice)
    absent = {"bag": 0.3, "hat": 0.4, "glasses": 0.4, "scarf": 0.4, "carried": 0.3}
    if dice.chance(absent.get(name, 0)):
        return None
    if name == "upper":
        unfit = ("dress", "coat") if person.lower is not None and person.lower.length == "short" else ("dress",)
        kinds = {kind: weight for kind, weight in UPPERS[person.gender].items() if kind not in unfit}
        return random_upper(person.gender, dice, "dress" if person.lower is None else dice.weighted(kinds))
    if name == "bag":
        return random_bag(person.gender, dice)
    if name == "shoes":
        return random_shoes(person.gender, dice)
    if name == "hat":
        return Item(kind=dice.weighted(HATS), colour=dice.weighted(HAT_COLOURS))
    if name == "hair":
        return random_hair(person.gender, ELDERLY_HAIR_COLOURS if person.age == "elderly" else HAIR_COLOURS, dice)
    return dice.weighted({"glasses": GLASSES, "scarf": CLOTHES_COLOURS, "carried": CARRIED}[name])
