"""How people say what they see: synonyms and noun phrases for every attribute of a person.

Whole captions are put together from these phrases in captions.py and long_captions.py. No phrase says left or right,
because training mirrors pictures.
"""

from sharding.synthetic.dice import Dice
from sharding.synthetic.people import OUTERWEAR, Lower, Person, Upper

COLOUR_WORDS = {
    "grey": ("grey", "gray"), "beige": ("beige", "cream", "khaki"), "navy": ("navy", "navy blue", "dark blue"),
    "light blue": ("light blue", "pale blue", "sky blue"), "purple": ("purple", "purple", "violet"),
    "blond": ("blond", "blonde", "light blond"), "brown": ("brown", "brown", "dark brown"),
}  # fmt: skip
VAGUE_COLOURS = {
    **dict.fromkeys(("black", "navy", "brown", "purple"), ("dark", "dark-coloured")),
    **dict.fromkeys(("white", "beige", "light blue", "grey", "pink", "blond"), ("light", "light-coloured", "pale")),
    **dict.fromkeys(("red", "orange", "yellow", "green", "blue"), ("bright", "coloured")),
}
KIND_WORDS = {
    "t-shirt": ("t-shirt", "tee shirt", "tee"), "shirt": ("shirt", "button-up shirt", "collared shirt"),
    "sweater": ("sweater", "jumper", "pullover"), "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "zip-up jacket"), "blazer": ("blazer", "suit jacket"),
    "coat": ("coat", "long coat", "overcoat"),
    "tank top": ("tank top", "sleeveless top"), "dress": ("dress",),
    "trousers": ("trousers", "pants", "slacks"), "jeans": ("jeans", "denim jeans"), "shorts": ("shorts",),
    "skirt": ("skirt",), "leggings": ("leggings", "tight pants"),
    "wide-leg trousers": ("wide-leg trousers", "wide-leg pants", "loose trousers"),
    "tracksuit bottoms": ("tracksuit bottoms", "track pants", "sweatpants"),
    "trainers": ("trainers", "sneakers", "running shoes"), "leather shoes": ("leather shoes", "dress shoes"),
    "boots": ("boots", "ankle boots"), "sandals": ("sandals",), "heels": ("heels", "high heels", "heeled shoes"),
    "flat shoes": ("flat shoes", "flats"),
    "backpack": ("backpack", "rucksack"), "handbag": ("handbag", "purse"),
    "shoulder bag": ("shoulder bag", "crossbody bag", "messenger bag"), "suitcase": ("suitcase", "rolling suitcase"),
    "tote bag": ("tote bag", "tote"),
    "cap": ("cap", "baseball cap"), "beanie": ("beanie", "knitted hat", "woolly hat"),
    "sun hat": ("sun hat", "wide-brimmed hat"),
    "glasses": ("glasses", "a pair of glasses", "eyeglasses"),
    "sunglasses": ("sunglasses", "a pair of sunglasses", "dark glasses"),
    "phone": ("a phone", "a mobile phone", "a cell phone"), "water bottle": ("a water bottle", "a bottle of water"),
    "umbrella": ("an umbrella", "a folded umbrella"), "coffee cup": ("a coffee cup", "a cup of coffee", "a paper cup"),
    "book": ("a book",), "shopping bag": ("a shopping bag", "a paper shopping bag"),
}  # fmt: skip
VAGUE_KINDS = {
    "upper": ("top",), "lower": ("bottoms",), "shoes": ("shoes", "footwear"), "bag": ("bag",), "hat": ("hat",),
    "carried": ("something in one hand", "a small object"), "glasses": ("glasses",),
}  # fmt: skip
HAIR_WORDS = {
    "short": ("short {} hair", "{} hair cut short"), "long": ("long {} hair", "{} hair that falls past the shoulders"),
    "bob": ("a {} bob", "chin-length {} hair"), "ponytail": ("{} hair tied in a ponytail", "a {} ponytail"),
    "bun": ("{} hair in a bun", "{} hair tied up in a bun"), "curly": ("curly {} hair", "{} curls"),
    "bald": ("a bald head", "a shaved head"),
}  # fmt: skip
PATTERN_WORDS = {
    "striped": ("{garment} with {second} stripes", "{garment} with {second} horizontal stripes"),
    "checked": ("{garment} with a {second} check", "{garment} with {second} checks"),
    "dotted": ("{garment} with {second} dots", "{garment} with {second} polka dots"),
    "printed": ("{garment} with a {second} print on it", "{garment} with a {second} logo"),
    "two-tone": ("{garment} with a {second} lower half", "{garment} that is {second} at the bottom"),
    "open": ("{garment} over a {second} shirt", "open {garment} with a {second} top underneath"),
}
ATTRIBUTE_WORDS = {"striped": "striped", "checked": "checked", "dotted": "dotted", "two-tone": "two-tone"}
SLEEVE_WORDS = {"short": "short-sleeved", "long": "long-sleeved", "none": "sleeveless"}
VISIBLE_SLEEVES = ("shirt", "dress")  # only these come with more than one sleeve, so only there it tells something
AGE_WORDS = {"young": ("young",), "middle-aged": ("middle-aged",), "elderly": ("elderly", "older")}
GENDER_WORDS = {"man": ("man", "man", "male"), "woman": ("woman", "woman", "lady")}
HIDDEN_FROM_BEHIND = ("phone", "book", "coffee cup")


def article(phrase: str) -> str:
    """The phrase with `a` or `an` before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def colour_word(colour: str, dice: Dice, *, vague: bool = False) -> str:
    """One of the words for a colour; a vague one says only dark, light or bright."""
    return dice.pick(VAGUE_COLOURS[colour] if vague else COLOUR_WORDS.get(colour, (colour,)))


def kind_word(name: str, kind: str, dice: Dice, *, vague: bool = False) -> str:
    """One of the words for a garment, bag or thing."""
    return dice.pick(VAGUE_KINDS[name] if vague and name in VAGUE_KINDS else KIND_WORDS[kind])


def upper_phrase(upper: Upper, dice: Dice, *, front: bool, vague: bool, rich: bool) -> str:
    """`a red t-shirt with white stripes`; vague `a dark top`; `rich` always tells pattern and sleeves."""
    colour, kind = colour_word(upper.colour, dice, vague=vague), kind_word("upper", upper.kind, dice, vague=vague)
    if vague:
        return article(f"{colour} {kind}")
    if kind != "sleeveless top" and upper.kind in VISIBLE_SLEEVES and (rich or dice.chance(0.5)):
        kind = f"{SLEEVE_WORDS[upper.sleeve]} {kind}"
    garment, second = f"{colour} {kind}", colour_word(upper.second, dice)
    if upper.pattern == "plain" or (upper.kind in OUTERWEAR and not (front and (rich or dice.chance(0.7)))):
        return article(f"plain {garment}" if upper.pattern == "plain" and rich and dice.chance(0.5) else garment)
    if upper.pattern in ATTRIBUTE_WORDS and dice.chance(0.4):
        word = ATTRIBUTE_WORDS[upper.pattern]
        return article(f"{colour} and {second} {word} {kind}")
    phrase = dice.pick(PATTERN_WORDS[upper.pattern]).format(garment=garment, second=second)
    return article(phrase).replace(" a orange", " an orange").replace(" a open", " an open")


def lower_phrase(lower: Lower, dice: Dice, *, vague: bool, rich: bool) -> str:
    """`blue jeans`, `a long green skirt`; vague `dark bottoms`."""
    colour, kind = colour_word(lower.colour, dice, vague=vague), kind_word("lower", lower.kind, dice, vague=vague)
    if vague:
        return f"{colour} {kind}"
    tells = lower.kind == "skirt" or lower.length == "cropped" or (lower.kind == "shorts" and lower.length != "short")
    length = f"{lower.length} " if tells and (rich or dice.chance(0.7)) else ""
    if lower.kind == "skirt":
        return article(f"{length}{colour} {kind}")
    stripe = " with a white stripe" if lower.kind == "tracksuit bottoms" and (rich or dice.chance(0.3)) else ""
    return f"{'a pair of ' if dice.chance(0.25) else ''}{length}{colour} {kind}{stripe}"


def phrase(
    name: str, person: Person, dice: Dice, *, front: bool = True, vague: bool = False, rich: bool = False
) -> str:
    """The noun phrase for one attribute that the person has, article included.

    `front` is False for a person seen from behind, `vague` asks for a word that tells little, `rich` for all there is.
    """
    if name == "upper":
        return upper_phrase(person.upper, dice, front=front, vague=vague, rich=rich)
    if name == "lower":
        assert person.lower is not None
        return lower_phrase(person.lower, dice, vague=vague, rich=rich)
    if name == "hair":
        colour = colour_word(person.hair.colour, dice, vague=vague)
        text = dice.pick(HAIR_WORDS[person.hair.kind]).format(colour)
        return text.replace("a orange", "an orange")
    if name == "scarf":
        assert person.scarf is not None
        return article(f"{colour_word(person.scarf, dice, vague=vague)} scarf")
    if name in ("glasses", "carried"):
        return kind_word(name, getattr(person, name), dice, vague=vague)
    item = getattr(person, name)
    text = f"{colour_word(item.colour, dice, vague=vague)} {kind_word(name, item.kind, dice, vague=vague)}"
    return text if name == "shoes" else article(text)


def tellable(person: Person, view: str) -> tuple[str, ...]:
    """The attributes that can be seen, and so told, in a view."""
    names = ("hair", "upper", "lower", "shoes", "bag", "hat", "glasses", "scarf", "carried")
    present = [name for name in names if getattr(person, name) is not None]
    if view == "back":
        hidden = ["glasses"] + (["carried"] if person.carried in HIDDEN_FROM_BEHIND else [])
        present = [name for name in present if name not in hidden]
    return tuple(present)
