"""Long captions: the verbose style of vision-language models (~69 words) and the ultra-fine human style (70-80 words).

Both are sentences in a fixed order, one per attribute, fitted into a window of words by filler that tells little.
"""

from sharding.synthetic.captions import Observation, words
from sharding.synthetic.dice import Dice
from sharding.synthetic.words import article

MODEL_WINDOW = (62, 76)  # words: the published mean is 69
ULTRA_FINE_WINDOW = (70, 80)
FILLERS = (
    "The person is captured in full length.",
    "The background is slightly blurred.",
    "The overall outfit appears casual and practical.",
    "The posture suggests a relaxed, steady walk.",
    "The picture seems to come from a surveillance camera.",
    "Nothing else about the appearance stands out.",
    "The arms hang loosely beside the body while walking.",
    "The lighting is even and the colours of the clothes are easy to tell apart.",
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
    "hair": ("{He} has {x}.", "{His} head shows {x}.", "The person has {x}."),
    "upper": ("{He} is dressed in {x} on the upper body.", "The upper body is covered by {x}.", "{He} is wearing {x}."),
    "lower": ("For the lower body, {he} has chosen {x}.", "{He} combines this with {x}.", "Below the waist, {he} wears {x}."),
    "shoes": ("On {his} feet are {x}.", "The outfit is completed by {x}.", "{He} wears {x} on {his} feet."),
    "bag": ("{He} is carrying {x}.", "{x}, which seems well used, is part of the outfit.", "{He} also has {x}."),
    "hat": ("On {his} head {he} wears {x}.", "{His} head is covered by {x}."),
    "glasses": ("{He} is wearing {x}.", "On {his} face {he} wears {x}."),
    "scarf": ("{x} is wrapped around {his} neck.", "{He} wears {x} around the neck."),
    "carried": ("{He} is holding {x}.", "In one hand {he} holds {x}."),
}
BUILD_WORDS = {"slim": "slim", "average": "medium", "stocky": "stocky"}
SKIN_WORDS = {"fair": "fair", "tan": "lightly tanned", "brown": "brown", "dark": "dark"}


def model_caption(seen: Observation, dice: Dice) -> str:
    """A vision-language model's paragraph of 62 to 76 words."""
    return _fit(_describe(seen, dice, rich=False), MODEL_WINDOW, dice)


def ultra_fine_caption(seen: Observation, dice: Dice) -> str:
    """A careful annotator's paragraph of 70 to 80 words that tells build, skin and every detail of the clothes."""
    sentences = _describe(seen, dice, rich=True)
    build, skin = BUILD_WORDS[seen.person.build], SKIN_WORDS[seen.person.skin]
    text = dice.pick(("{He} has {build} build and {skin} skin.", "{His} build is {bare} and {his} skin is {skin}."))
    sentences.insert(1, _fill(text, seen, build=article(build), bare=build, skin=skin))
    return _fit(sentences, ULTRA_FINE_WINDOW, dice)


def _fill(template: str, seen: Observation, **values: str) -> str:
    he, his = seen.pronoun(), seen.possessive()
    text = template.format(He=he, he=he.lower(), His=his.capitalize(), his=his, **values)
    return text[0].upper() + text[1:]


def _describe(seen: Observation, dice: Dice, *, rich: bool) -> list[str]:
    subject = article(seen.subject(dice))
    opening = dice.pick(OPENINGS).format(subject=subject, Subject=subject.capitalize(), view=dice.pick(VIEWS[seen.view]))
    order = [name for name in ("hair", "hat", "glasses", "scarf", "upper", "lower", "shoes", "bag", "carried")]
    told = seen.told()
    return [opening] + [
        _fill(dice.pick(SENTENCES[name]), seen, x=seen.phrase(name, dice, rich=rich)) for name in order if name in told
    ]


def _fit(sentences: list[str], window: tuple[int, int], dice: Dice) -> str:
    """Add filler, or drop the last details, until the word count lies in the window."""
    low, high = window
    target = dice.count(low, high - 4)
    total = sum(words(sentence) for sentence in sentences)
    while total > high:
        total -= words(sentences.pop())
    for filler in dice.shuffled(FILLERS):
        if total >= target:
            break
        if total + words(filler) <= high:
            sentences = [*sentences, filler]
            total += words(filler)
    return " ".join(sentences)
