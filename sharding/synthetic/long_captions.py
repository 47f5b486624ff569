"""Long captions in the verbose style of vision-language models, 69 words on average.

Sentences in a fixed order, one per attribute, are fitted into a window of words by filler that tells little.
"""

from sharding.synthetic.captions import Observation, words
from sharding.synthetic.dice import Dice
from sharding.synthetic.words import article, kind_word

MODEL_WINDOW = (62, 76)  # words: the published mean is 69
FILLERS = (
    "The person is captured in full length.",
    "The background is slightly blurred.",
    "The overall outfit appears casual and practical.",
    "The posture suggests a relaxed, steady walk.",
    "Nothing else about the appearance stands out.",
    "The clothes fit comfortably and look well kept.",
    "The figure is seen walking.",
)
OPENINGS = (
    "The image shows {subject} walking {view}.",
    "This picture depicts {subject} who is seen {view}.",
    "In the image, {subject} is walking through a public place and is seen {view}.",
    "{Subject} appears in the image, seen {view}.",
    "The photo captures {subject} {view}, in the middle of a step.",
)
VIEWS = {
    "front": ("from the front", "facing the camera"),
    "back": ("from behind", "facing away from the camera"),
    "side": ("from the side", "in profile"),
}
SENTENCES = {
    "hair": ("{He} has {x}.", "The person has {x}."),
    "upper": ("{He} is dressed in {x} on the upper body.", "The upper body is covered by {x}.", "{He} is wearing {x}."),
    "lower": (
        "For the lower body, {he} has chosen {x}.",
        "{He} combines this with {x}.",
        "Below the waist, {he} wears {x}.",
    ),
    "shoes": ("On {his} feet are {x}.", "The outfit is completed by {x}.", "{He} wears {x} on {his} feet."),
    "bag": ("{He} is carrying {x}.", "{x}, which seems well used, is part of the outfit.", "{He} also has {x}."),
    "hat": ("On {his} head {he} wears {x}.", "{His} head is covered by {x}."),
    "glasses": ("{He} is wearing {x}.", "On {his} face {he} wears {x}."),
    "scarf": ("{x} is wrapped around {his} neck.", "{He} wears {x} around the neck."),
    "carried": ("{He} is holding {x}.", "In one hand {he} holds {x}."),
}
ABSENT = {
    "bag": ("{He} does not carry a bag.", "No bag is visible."),
    "hat": ("There is no hat on {his} head.", "{He} is not wearing a hat."),
    "carried": ("{His} hands are empty.",),
    "scarf": ("The neck is not covered by a scarf.",),
}
SLEEVES = {
    "long": ("The sleeves are long and cover the arms completely.", "Both arms are covered by long sleeves."),
    "short": ("The short sleeves leave most of the arms bare.", "The sleeves end above the elbows."),
    "none": ("The garment has no sleeves, so the arms are bare.",),
}
LENGTHS = {
    "long": ("The {x} cover the legs down to the ankles.",),
    "cropped": ("The {x} end well above the ankles.",),
    "knee-length": ("The {x} end at the height of the knees.",),
    "short": ("The {x} leave most of the legs bare.",),
}


def model_caption(seen: Observation, dice: Dice) -> str:
    """A vision-language model's paragraph of 62 to 76 words."""
    return _fit(_describe(seen, dice), _asides(seen, dice), dice)


def _fill(template: str, seen: Observation, **values: str) -> str:
    he, his = seen.pronoun(), seen.possessive()
    text = template.format(He=he, he=he.lower(), His=his.capitalize(), his=his, **values)
    return text[0].upper() + text[1:]


def _describe(seen: Observation, dice: Dice) -> list[str]:
    subject = article(seen.subject(dice))
    opening = dice.pick(OPENINGS).format(
        subject=subject, Subject=subject.capitalize(), view=dice.pick(VIEWS[seen.view])
    )
    order = ("hair", "hat", "glasses", "scarf", "upper", "lower", "shoes", "bag", "carried")
    told = seen.told()
    sentences = dict(SENTENCES)
    if seen.person.upper.kind == "dress":
        sentences["upper"] = tuple(text for text in SENTENCES["upper"] if "upper body" not in text)
    if "upper" not in told:
        sentences["lower"] = tuple(text for text in SENTENCES["lower"] if "combines" not in text)
    details = [name for name in order if name in told]
    return [opening, *(_fill(dice.pick(sentences[name]), seen, x=seen.phrase(name, dice)) for name in details)]


def _asides(seen: Observation, dice: Dice) -> list[str]:
    """What else there is to say: sleeves, lengths, and what the person does not have."""
    person = seen.person
    absent = [name for name in ABSENT if getattr(person, name) is None]
    if person.bag is not None and person.bag.kind in ("handbag", "suitcase") and "carried" in absent:
        absent.remove("carried")  # the bag is in the hand
    if person.carried == "shopping bag" and "bag" in absent:
        absent.remove("bag")
    texts = [dice.pick(ABSENT[name]) for name in absent]
    texts = [*dice.shuffled(texts)[:2], dice.pick(SLEEVES[person.upper.sleeve])]
    values = {"x": ""}
    if person.lower is not None and seen.state["lower"] == "right" and person.lower.kind != "skirt":
        texts.append(dice.pick(LENGTHS[person.lower.length]))
        values["x"] = kind_word("lower", person.lower.kind, dice)
    return dice.shuffled([_fill(text, seen, **values) for text in texts])


def _fit(sentences: list[str], asides: list[str], dice: Dice) -> str:
    """Add asides, then filler, or drop the last details, until the word count lies in the window."""
    low, high = MODEL_WINDOW
    target = dice.count(low, high - 4)
    total = sum(words(sentence) for sentence in sentences)
    while total > high:
        total -= words(sentences.pop())
    for more in (*asides, *dice.shuffled(FILLERS)):
        if total >= target:
            break
        if total + words(more) <= high:
            sentences = [*sentences, more]
            total += words(more)
    return " ".join(sentences)
