"""Ultra-fine captions as careful people write them: everything that can be seen, in 30 to 218 words, 80 on average.

Annotators differ in care. One lists all attributes in two sentences, another gives each a sentence of its own and adds
what a close look shows (fine_words.py). What is told and how often it is wrong is the same for both.
"""

from sharding.synthetic.captions import Observation, Range, join, words
from sharding.synthetic.dice import Dice
from sharding.synthetic.fine_words import AVERAGE_BUILD, BUILD_ADJECTIVES, SKIN_WORDS, details
from sharding.synthetic.people import OUTERWEAR, Lower
from sharding.synthetic.words import (
    ADJECTIVES,
    AGE_WORDS,
    GENDER_WORDS,
    PATTERN_WORDS,
    SLEEVE_WORDS,
    article,
    colour_word,
    kind_word,
    shows_second,
)

CARE: Range = (0.0, 1.0)  # of an annotator: how often an attribute gets its own sentence and a detail is told
LEAST = 30  # words that an annotator has to write
TERSE: Range = (0.0, 0.1)  # every attribute, hardly a detail: ~39 words
VIEWS = {
    "front": ("walking towards the camera", "seen from the front", "facing the camera"),
    "back": ("walking away from the camera", "seen from behind", "walking with the back to the camera"),
    "side": ("walking past the camera", "seen from the side", "seen in profile"),
}
GROUPS = (("hair", "hat", "glasses", "scarf"), ("upper", "lower", "shoes"), ("bag", "carried"))
OWN_SENTENCE = {
    "hair": ("{He} has {x}.", "The {gender} has {x}."),
    "hat": ("On {his} head {he} wears {x}.", "{He} has {x} on {his} head.", "{He} is wearing {x}."),
    "glasses": ("{He} is wearing {x}.", "{He} wears {x} on {his} face."),
    "scarf": ("{He} has {x} around {his} neck.", "{x} is wrapped around {his} neck."),
    "upper": ("{He} is wearing {x}.", "The {gender} is dressed in {x}.", "{He} has {x} on."),
    "lower": ("{He} is also wearing {x}.", "Below that, {he} wears {x}.", "For the lower body, {he} has chosen {x}."),
    "shoes": ("On {his} feet are {x}.", "{He} wears {x} on {his} feet.", "{His} shoes are {x}."),
    "bag": ("{He} is carrying {x}.", "{He} has {x} with {him}.", "The {gender} carries {x}."),
    "carried": ("{He} is holding {x}.", "In one of {his} hands is {x}.", "One hand holds {x}."),
}
ABSENT = {
    "hat": ("{He} has no hat on.", "{He} is not wearing a hat."),
    "bag": ("{He} is not carrying a bag.", "No bag can be seen."),
    "glasses": ("{He} does not wear glasses.", "There are no glasses on {his} face."),
    "scarf": ("{He} wears no scarf.", "The neck is not covered by a scarf."),
    "carried": ("{He} holds nothing in {his} hands.", "Both hands are empty."),
}


def fine_caption(seen: Observation, dice: Dice, care: Range = CARE, least: int = LEAST) -> str:
    """All that an annotator saw, written with a care drawn from the range; what is too short they write again."""
    diligence = dice.between(*care) ** 1.3  # few are very thorough
    text = describe(seen, diligence, dice)
    while words(text) < least and diligence < 1:  # past that, there is nothing more to tell
        diligence += 0.1
        text = describe(seen, diligence, dice)
    return text


def describe(seen: Observation, diligence: float, dice: Dice) -> str:
    """The description by an annotator of this diligence: who is seen, what they wear and carry, what they lack."""
    sentences = [opening(seen, diligence, dice)]
    groups = GROUPS if dice.chance(0.75) else (GROUPS[1], GROUPS[0], GROUPS[2])  # some begin with the clothes
    told = seen.told()
    for group in groups:
        names = [name for name in group if name in told]
        sentences += group_sentences(seen, names, diligence, dice)
    if diligence > 0.3:
        sentences += absences(seen, diligence, dice)
    return " ".join(sentences)


def opening(seen: Observation, diligence: float, dice: Dice) -> str:
    """Who is seen, and from where: `A slim young woman with fair skin is walking towards the camera.`"""
    person = seen.person
    adjectives = [] if person.build == "average" else [dice.pick(BUILD_ADJECTIVES[person.build])]
    if seen.view != "back" or dice.chance(0.4):
        adjectives.append(dice.pick(AGE_WORDS[person.age]))
    noun = [*adjectives, dice.pick(GENDER_WORDS[person.gender])]
    if person.build == "average" and dice.chance(0.5 + diligence):
        noun.append(dice.pick(AVERAGE_BUILD))
    bare = person.upper.sleeve != "long" or person.hair.kind == "bald"
    if (seen.view != "back" or bare) and dice.chance(0.7 + diligence):
        noun.append(f"with {dice.pick(SKIN_WORDS[person.skin])} skin")
    who, view = article(" ".join(noun)), dice.pick(VIEWS[seen.view])
    texts = (f"{who} is {view}.", f"The picture shows {who}, {view}.", f"This is {who} who is {view}.")
    text = texts[0] if diligence < 0.2 else dice.pick(texts)
    return text[0].upper() + text[1:]


def group_sentences(seen: Observation, names: list[str], diligence: float, dice: Dice) -> list[str]:
    """What is told of one group of attributes: in one sentence, or each in its own, with the details noticed."""
    if not names:
        return []
    phrases = {name: fine_phrase(name, seen, dice) for name in names}
    if not dice.chance(0.1 + 1.5 * diligence):
        more = [noticed(name, seen, diligence, dice)[:1] for name in names]
        return [
            together(seen, phrases),
            *(named(text, name, seen) for name, texts in zip(names, more, strict=True) for text in texts),
        ]
    sentences = []
    for name in names:
        templates = OWN_SENTENCE[name] if name != "lower" or "upper" in names else OWN_SENTENCE["upper"]
        sentences.append(fill(dice.pick(templates), seen, phrases[name]))
        texts = noticed(name, seen, diligence, dice)
        sentences += texts[:1] + [named(text, name, seen) for text in texts[1:]]
    return sentences


def together(seen: Observation, phrases: dict[str, str]) -> str:
    """One sentence for a group: `She has long black hair and wears a red cap and glasses.`"""
    hair, worn = phrases.get("hair"), [phrases[name] for name in phrases if name != "hair"]
    if "bag" in phrases or "carried" in phrases:
        return f"{seen.pronoun()} is carrying {join(worn)}."
    if hair is None:
        return f"{seen.pronoun()} is wearing {join(worn)}."
    return f"{seen.pronoun()} has {hair}" + (f" and wears {join(worn)}." if worn else ".")


def noticed(name: str, seen: Observation, diligence: float, dice: Dice) -> list[str]:
    """The details an annotator adds about an attribute they got right, each as likely as they are diligent."""
    if seen.state[name] != "right":
        return []
    return [dice.pick(detail) for detail in details(name, seen.person, seen.view) if dice.chance(1.1 * diligence)]


def named(text: str, name: str, seen: Observation) -> str:
    """A detail that does not follow its attribute directly: `It` and `They` become `The hoodie`, `The shoes`."""
    value = getattr(seen.person, name)
    noun = value if isinstance(value, str) else value.kind
    noun = name if name in ("hair", "scarf", "hat", "shoes") else noun
    pronoun, _, rest = text.partition(" ")
    return f"The {noun} {rest}" if pronoun in ("It", "They") else text


def absences(seen: Observation, diligence: float, dice: Dice) -> list[str]:
    """What the person does not have."""
    person, missing = seen.person, [name for name in ABSENT if getattr(seen.person, name) is None]
    if seen.view == "back":
        missing = [name for name in missing if name not in ("glasses", "scarf", "carried")]
    if person.bag is not None and person.bag.kind in ("handbag", "suitcase"):
        missing = [name for name in missing if name != "carried"]  # the bag is in the hand
    if person.carried == "shopping bag":
        missing = [name for name in missing if name != "bag"]
    return [fill(dice.pick(ABSENT[name]), seen, "") for name in missing if dice.chance(0.8 * diligence)]


def fill(template: str, seen: Observation, phrase: str) -> str:
    """A sentence template with the person's pronouns and the phrase put in."""
    he, his = seen.pronoun(), seen.possessive()
    him = "him" if his == "his" else "her"
    text = template.format(
        He=he, he=he.lower(), His=his.capitalize(), his=his, him=him, gender=seen.person.gender, x=phrase
    )
    return text[0].upper() + text[1:]


def fine_phrase(name: str, seen: Observation, dice: Dice) -> str:
    """The noun phrase for one attribute, with pattern, second colour, sleeve and length wherever they show."""
    if seen.state[name] == "vague" or name not in ("upper", "lower"):
        return seen.phrase(name, dice)
    if name == "upper":
        return fine_upper(seen, dice)
    assert seen.person.lower is not None
    return fine_lower(seen.person.lower, dice)


def fine_upper(seen: Observation, dice: Dice) -> str:
    """`a short-sleeved white t-shirt with red stripes`, `a black jacket over a green shirt`."""
    upper = seen.person.upper
    colour, kind = colour_word(upper.colour, dice), kind_word("upper", upper.kind, dice)
    tells = upper.kind not in ("sweater", "hoodie", *OUTERWEAR) and "sleeveless" not in kind
    sleeve = f"{SLEEVE_WORDS[upper.sleeve]} " if tells else ""
    if not shows_second(seen.person, seen.view):
        return article(f"{sleeve}{colour} {kind}")
    second = colour_word(upper.second, dice)
    if upper.pattern in ADJECTIVES and dice.chance(0.4):
        return article(f"{sleeve}{colour} and {second} {upper.pattern} {kind}")
    text = dice.pick(PATTERN_WORDS[upper.pattern]).format(garment=f"{sleeve}{colour} {kind}", second=second)
    return article(text).replace(" a orange", " an orange")


def fine_lower(lower: Lower, dice: Dice) -> str:
    """`long black trousers`, `a knee-length red skirt`, `a pair of cropped blue jeans`."""
    kind = kind_word("lower", lower.kind, dice)
    told = lower.length != "long" or lower.kind in ("skirt", "trousers")
    text = f"{lower.length} {colour_word(lower.colour, dice)}" if told else colour_word(lower.colour, dice)
    if lower.kind == "skirt":
        return article(f"{text} {kind}")
    return f"{'a pair of ' if dice.chance(0.2) else ''}{text} {kind}"
