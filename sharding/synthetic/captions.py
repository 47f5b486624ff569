"""Captions written from attributes, with the noise of each source.

An annotator first observes a person (`observe`: some attributes wrong, vague or missed at set rates), then writes in
the style of the source: `human_caption` ~23 words, `template_caption` ~20, `composed_caption` ~13. The long style is in
long_captions.py.
"""

from dataclasses import dataclass, replace
from typing import Any

from sharding.synthetic.dice import Dice
from sharding.synthetic.people import ATTRIBUTES, CARRIED, Item, Lower, Person, Upper
from sharding.synthetic.words import AGE_WORDS, GENDER_WORDS, article, phrase, tellable

CONFUSED = {  # what a tired annotator or a model takes a colour for
    "black": ("navy", "grey", "brown"), "white": ("grey", "light blue", "beige"), "grey": ("black", "white", "blue"),
    "red": ("orange", "pink"), "orange": ("red", "yellow"), "yellow": ("orange", "beige"), "green": ("blue", "grey"),
    "blue": ("navy", "purple", "light blue"), "navy": ("black", "blue"), "light blue": ("blue", "white"),
    "purple": ("navy", "pink"), "pink": ("red", "white"), "brown": ("black", "beige"), "beige": ("white", "brown"),
}  # fmt: skip
CONFUSED_HAIR = {
    "black": ("brown",), "brown": ("black", "blond"), "blond": ("brown",), "red": ("brown",), "grey": ("blond",),
}  # fmt: skip
CONFUSED_KINDS = {
    "t-shirt": "shirt", "shirt": "t-shirt", "sweater": "hoodie", "hoodie": "jacket", "jacket": "coat", "coat": "jacket",
    "blazer": "jacket", "tank top": "t-shirt", "trousers": "jeans", "jeans": "trousers", "leggings": "trousers",
    "trainers": "boots", "boots": "trainers", "leather shoes": "boots", "sandals": "flat shoes", "heels": "boots",
    "flat shoes": "sandals", "backpack": "shoulder bag", "shoulder bag": "handbag", "handbag": "tote bag",
    "tote bag": "shoulder bag", "cap": "beanie", "beanie": "cap", "short": "curly", "long": "ponytail", "bob": "short",
    "ponytail": "bun", "bun": "short", "curly": "short", "bald": "short",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How often an annotator gets one attribute wrong, leaves it out, or tells it vaguely."""

    wrong: float
    dropped: float
    vague: float


NOISE = {
    "pretrain_110k": Noise(wrong=0.08, dropped=0.15, vague=0.10),
    "luperson_t": Noise(wrong=0.10, dropped=0.18, vague=0.12),
    "syncpr": Noise(wrong=0.04, dropped=0.0, vague=0.0),  # the image generator's: the picture disobeys the text
    "cuhk_pedes": Noise(wrong=0.02, dropped=0.05, vague=0.04),
    "icfg_pedes": Noise(wrong=0.03, dropped=0.14, vague=0.03),
    "rstpreid": Noise(wrong=0.04, dropped=0.08, vague=0.05),
    "ufine6926": Noise(wrong=0.02, dropped=0.03, vague=0.01),
    "ufine3c": Noise(wrong=0.03, dropped=0.05, vague=0.03),
    "itcpr": Noise(wrong=0.0, dropped=0.0, vague=0.0),  # an edit is written with both pictures side by side
    "jsonl": Noise(wrong=0.03, dropped=0.08, vague=0.05),
    "folder": Noise(wrong=0.03, dropped=0.08, vague=0.05),
    "webdataset": Noise(wrong=0.15, dropped=0.25, vague=0.15),
}
Range = tuple[float, float]
TEMPLATE_PHRASES = 12  # words of phrases after which a template takes no more


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A person as an annotator noted them: `person` holds the mistakes, `state` what happened to each attribute."""

    person: Person
    view: str
    state: dict[str, str]

    def told(self) -> list[str]:
        """The attributes that were not left out, in the order hair, clothes, things."""
        return [name for name in tellable(self.person, self.view) if self.state[name] != "dropped"]

    def phrase(self, name: str, dice: Dice) -> str:
        """The noun phrase for one told attribute."""
        return phrase(name, self.person, dice, view=self.view, vague=self.state[name] == "vague")

    def subject(self, dice: Dice) -> str:
        """`young man`, sometimes `man`."""
        gender = dice.pick(GENDER_WORDS[self.person.gender])
        return f"{dice.pick(AGE_WORDS[self.person.age])} {gender}" if dice.chance(0.45) else gender

    def pronoun(self) -> str:
        """`He` or `She`."""
        return "He" if self.person.gender == "man" else "She"

    def possessive(self) -> str:
        """`his` or `her`."""
        return "his" if self.person.gender == "man" else "her"


def observe(person: Person, view: str, noise: Noise, dice: Dice) -> Observation:
    """What an annotator notes of a view: each visible attribute is right, wrong, dropped or vague."""
    state = dict.fromkeys(ATTRIBUTES, "right")
    for name in tellable(person, view):
        chance = dice.unit()
        if chance < noise.wrong:
            state[name] = "wrong"
            person = replace(person, **{name: misread(name, getattr(person, name), dice)})
        elif chance < noise.wrong + noise.dropped:
            state[name] = "dropped"
        elif chance < noise.wrong + noise.dropped + noise.vague:
            state[name] = "vague"
    return Observation(person=person, view=view, state=state)


def misread(name: str, value: Item | Upper | Lower | str, dice: Dice) -> Any:
    """A plausible mistake: mostly the colour, sometimes the kind."""
    if isinstance(value, str):
        if value in CONFUSED:
            return dice.pick(CONFUSED[value])
        if value in CARRIED:
            return dice.pick([kind for kind in CARRIED if kind != value])
        return {"glasses": "sunglasses", "sunglasses": "glasses"}[value]
    if value.kind in CONFUSED_KINDS and (value.kind == "bald" or dice.chance(0.3)):
        return replace(value, kind=CONFUSED_KINDS[value.kind])
    return replace(value, colour=dice.pick((CONFUSED_HAIR if name == "hair" else CONFUSED)[value.colour]))


def join(phrases: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def words(text: str) -> int:
    """How many words a text has."""
    return len(text.split())


def human_caption(seen: Observation, dice: Dice, length: Range = (16, 29)) -> str:
    """Two or three plain sentences of a crowd worker, 23 words on average.

    `length` is how many words they mean to write; the clothes are always told, other things until it is reached.
    """
    told, target = seen.told(), dice.between(*length)
    clothes = [name for name in told if name in ("upper", "lower")]
    phrases = {name: seen.phrase(name, dice) for name in clothes}
    used, rest = 6 + words(" ".join(phrases.values())), dice.shuffled([name for name in told if name not in clothes])
    for name in rest:
        if used >= target:
            break
        phrases[name] = seen.phrase(name, dice)
        used += 2 + words(phrases[name])
    opened = [name for name in clothes + (["shoes"] if dice.chance(0.6) else []) if name in phrases]
    first, left = [phrases[name] for name in opened], [name for name in phrases if name not in opened]
    subject = article(seen.subject(dice)) if dice.chance(0.5) else f"{dice.pick(('the', 'this'))} {seen.subject(dice)}"
    if "hair" in left and dice.chance(0.35):
        subject += f" with {phrases['hair']}"
        left.remove("hair")
    verb = dice.pick(("is wearing", "wears", "is dressed in", "has on"))
    opening = f"{subject} {verb} {join(first)}." if first else f"{subject} is walking along."
    sentences = [opening[0].upper() + opening[1:], *human_rest(seen, phrases, left, dice)]
    return " ".join(sentences)


def human_rest(seen: Observation, phrases: dict[str, str], left: list[str], dice: Dice) -> list[str]:
    """The sentences after the first: what else is worn, the hair, what is carried."""
    he, sentences = seen.pronoun(), []
    worn = [phrases[name] for name in left if name in ("shoes", "hat", "glasses", "scarf")]
    carried = [phrases[name] for name in left if name in ("bag", "carried")]
    hair = phrases["hair"] if "hair" in left else ""
    if worn:
        sentences.append(f"{he} {dice.pick(('is also wearing', 'also wears', 'has'))} {join(worn)}.")
    carry = dice.pick(("is carrying", "carries", "has"))
    if hair and carried:
        sentences.append(f"{he} has {hair} and {'is carrying' if carry == 'has' else carry} {join(carried)}.")
    elif hair:
        sentences.append(f"{he} has {hair}.")
    elif carried:
        sentences.append(f"{he} {carry} {join(carried)}.")
    return sentences


def template_caption(seen: Observation, dice: Dice) -> str:
    """One sentence with the attributes filled into a template, as pseudo-texts are made."""
    get: dict[str, str] = {}
    for name in sorted(dice.shuffled(seen.told()), key=("upper", "lower").__contains__, reverse=True):
        if words(" ".join(get.values())) < TEMPLATE_PHRASES:
            get[name] = seen.phrase(name, dice)
    hair = f" with {get['hair']}" if "hair" in get else ""
    worn = join([get[name] for name in ("hat", "upper", "lower", "shoes") if name in get] or ["casual clothes"])
    extra = [get[name] for name in ("glasses", "scarf") if name in get]
    things = [get[name] for name in ("bag", "carried") if name in get]
    accessory = f", with {join(extra)}" if extra else ""
    carry = f", carrying {join(things)}" if things else ""
    he, subject = seen.pronoun().lower(), seen.subject(dice)
    texts = (
        f"{article(subject)}{hair} wearing {worn}{accessory}{carry}.",
        f"a photo of {article(subject)}{hair}, who wears {worn}{accessory}{carry}.",
        f"this {subject} is dressed in {worn}{accessory}{carry}" + (f", and {he} has {get['hair']}." if hair else "."),
        f"a pedestrian, {article(subject)}{hair}, in {worn}{accessory}{carry}.",
    )
    text = dice.pick(texts)
    return text[0].upper() + text[1:]


def composed_caption(person: Person, names: list[str], wording: dict[str, str], dice: Dice) -> str:
    """A generator's prompt that tells the named attributes, each in the wording given."""
    subject = f"{dice.pick(AGE_WORDS[person.age])} {person.gender}"
    hair = f" with {wording['hair']}" if "hair" in names else ""
    worn = [wording[name] for name in names if name in ("upper", "lower", "shoes", "hat", "glasses", "scarf")]
    carried = [wording[name] for name in names if name in ("bag", "carried")]
    text = f"The {subject}{hair} is wearing {join(worn)}."
    return f"{text} {'He' if person.gender == 'man' else 'She'} is carrying {join(carried)}." if carried else text


def edit_caption(reference: Person, target: Person, changed: tuple[str, ...], wording: dict[str, str]) -> str:
    """What turns the reference into the target, and nothing else: `Wearing a grey skirt, without the hat.`"""
    worn = [wording[name] for name in changed if name not in ("bag", "carried") and getattr(target, name) is not None]
    carried = [wording[name] for name in changed if name in ("bag", "carried") and getattr(target, name) is not None]
    gone = [name for name in changed if getattr(target, name) is None]
    clauses = [f"wearing {join(worn)}"] if worn else []
    clauses += [f"carrying {join(carried)}"] if carried else []
    for name in gone:
        value = getattr(reference, name)
        thing = name if name == "scarf" else value if isinstance(value, str) else value.kind
        clauses.append(f"without the {thing}")
    text = ", ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."
