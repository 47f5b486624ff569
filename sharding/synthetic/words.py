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
    "upper": ("top",), "lower": ("bottoms",), "shoes": ("shoes",), "bag": ("bag",), "hat": ("hat",),
    "carried": ("something", "a small object"), "glasses": ("glasses",),
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
ADJECTIVES = ("striped", "checked", "dotted", "two-tone")
SLEEVE_WORDS = {"short": "short-sleeved", "long": "long-sleeved", "none": "sleeveless"}
VISIBLE_SLEEVES = ("shirt", "dress")  # only these come with more than one sleeve, so only there it tells something
AGE_WORDS = {"young": ("young",), "middle-aged": ("middle-aged",), "elderly": ("elderly", "older")}
GENDER_WORDS = {"man": ("man", "man", "male"), "woman": ("woman", "woman", "lady")}
HIDDEN_FROM_BEHIND = ("phone", "book", "coffee cup")
HIDDEN_BY_HAT = ("short", "ponytail", "bun", "bald")  # from the front


def article(phrase: str) -> str:
    """The phrase with `a` or `an` before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def colour_word(colour: str, dice: Dice, *, vague: bool = False) -> str:
    """One of the words for a colour; a vague one says only dark, light or bright."""
    return dice.pick(VAGUE_COLOURS[colour] if vague else COLOUR_WORDS.get(colour, (colour,)))


def kind_word(name: str, kind: str, dice: Dice, *, vague: bool = False) -> str:
    """One of the words for a garment, bag or thing."""
    return dice.pick(VAGUE_KINDS[name] if vague and name in VAGUE_KINDS else KIND_WORDS[kind])


def upper_phrase(upper: Upper, dice: Dice, *, second: bool, vague: bool) -> str:
    """`a red t-shirt with white stripes`; vague `a dark top`; without `second` only the first colour is told."""
    colour, kind = colour_word(upper.colour, dice, vague=vague), kind_word("upper", upper.kind, dice, vague=vague)
    if vague:
        return article(f"{colour} {kind}")
    if kind != "sleeveless top" and upper.kind in VISIBLE_SLEEVES and dice.chance(0.5):
        kind = f"{SLEEVE_WORDS[upper.sleeve]} {kind}"
    garment, accent = f"{colour} {kind}", colour_word(upper.second, dice)
    if not second or (upper.kind in OUTERWEAR and not dice.chance(0.7)):
        return article(garment)
    if upper.pattern in ADJECTIVES and dice.chance(0.4):
        return article(f"{colour} and {accent} {upper.pattern} {kind}")
    text = article(dice.pick(PATTERN_WORDS[upper.pattern]).format(garment=garment, second=accent))
    return text.replace(" a orange", " an orange")


def lower_phrase(lower: Lower, dice: Dice, *, vague: bool) -> str:
    """`blue jeans`, `a long green skirt`; vague `dark bottoms`."""
    colour, kind = colour_word(lower.colour, dice, vague=vague), kind_word("lower", lower.kind, dice, vague=vague)
    if vague:
        return f"{colour} {kind}"
    tells = lower.kind == "skirt" or lower.length == "cropped" or (lower.kind == "shorts" and lower.length != "short")
    length = f"{lower.length} " if tells and dice.chance(0.7) else ""
    if lower.kind == "skirt":
        return article(f"{length}{colour} {kind}")
    stripe = " with a white stripe" if lower.kind == "tracksuit bottoms" and dice.chance(0.3) else ""
    return f"{'a pair of ' if dice.chance(0.25) else ''}{length}{colour} {kind}{stripe}"


def phrase(name: str, person: Person, dice: Dice, *, view: str = "front", vague: bool = False) -> str:
    """The noun phrase for one attribute that the person has, article included; nothing the view hides.

    `vague` asks for a word that tells little.
    """
    if name == "upper":
        return upper_phrase(person.upper, dice, second=shows_second(person, view), vague=vague)
    if name == "lower":
        assert person.lower is not None
        return lower_phrase(person.lower, dice, vague=vague)
    if name == "hair":
        return dice.pick(HAIR_WORDS[person.hair.kind]).format(colour_word(person.hair.colour, dice, vague=vague))
    if name == "scarf":
        assert person.scarf is not None
        return article(f"{colour_word(person.scarf, dice, vague=vague)} scarf")
    if name in ("glasses", "carried"):
        return kind_word(name, getattr(person, name), dice, vague=vague)
    item = getattr(person, name)
    text = f"{colour_word(item.colour, dice, vague=vague)} {kind_word(name, item.kind, dice, vague=vague)}"
    return text if name == "shoes" else article(text)


def shows_second(person: Person, view: str) -> bool:
    """Whether a view shows the second colour of the upper garment: its pattern, or the shirt below an open jacket."""
    upper, backpack = person.upper, person.bag is not None and person.bag.kind == "backpack"
    if upper.kind in OUTERWEAR:
        return view == "front" and upper.pattern != "plain"  # plain: a hoodie mistaken for a jacket
    if upper.pattern == "printed":
        return view == "front" or (view == "back" and not backpack)
    return upper.pattern != "plain"


def tellable(person: Person, view: str) -> tuple[str, ...]:
    """The attributes that can be seen, and so told, in a view."""
    names = ("hair", "upper", "lower", "shoes", "bag", "hat", "glasses", "scarf", "carried")
    hidden: set[str] = set()
    if view == "front" and person.hat is not None and person.hair.kind in HIDDEN_BY_HAT:
        hidden.add("hair")
    if view == "side" and person.carried is not None and person.bag is not None and person.bag.kind == "handbag":
        hidden.add("bag")  # in the far hand
    if view == "back":
        hidden.add("glasses")
        hidden |= {"scarf"} if person.hair.kind == "long" else set()
        hidden |= {"carried"} if person.carried in HIDDEN_FROM_BEHIND else set()
    return tuple(name for name in names if getattr(person, name) is not None and name not in hidden)
