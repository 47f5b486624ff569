"""What a close look adds to each attribute: the details that a picture shows in a view.

A detail is a tuple of sentences that say the same; an annotator writes one of them. Every sentence is true of the
drawing (draw.py, head.py, luggage.py): what the view, a scarf, a hat or a bag hides is not told. None says left or
right, because training mirrors pictures.
"""

from sharding.synthetic.people import OUTERWEAR, Item, Lower, Person, Upper
from sharding.synthetic.words import shows_second

Detail = tuple[str, ...]
BUILD_ADJECTIVES = {"slim": ("slim", "slender", "thin"), "stocky": ("stocky", "heavily built", "sturdy")}
AVERAGE_BUILD = ("of average build", "of medium build")
SKIN_WORDS = {
    "fair": ("fair", "light", "pale"), "tan": ("tanned", "olive"), "brown": ("brown", "medium brown"),
    "dark": ("dark", "dark brown"),
}  # fmt: skip
WHITE_SOLED = ("black", "brown", "grey", "red", "blue", "green", "navy", "orange", "purple")  # colours of trainers
HAIR: dict[str, Detail] = {
    "short": ("It is cut close around the ears.", "It is short and neat all around."),
    "long": ("It hangs down loosely below the shoulders.", "It is worn loose and is not tied up."),
    "bob": ("It does not quite reach the shoulders.", "It ends well above the shoulders."),
    "ponytail": (
        "It is pulled back tightly and hangs down behind the neck.",
        "It is gathered at the back of the head.",
    ),
    "bun": ("It is all gathered up, and no strand hangs down.", "It leaves the ears and the neck free."),
    "curly": ("It is thick and stands out all around the head.", "It has a lot of volume and small, round curls."),
    "bald": ("There is no hair on the head at all.", "The whole head is smooth."),
}
SLEEVES: dict[str, Detail] = {
    "long": ("The sleeves are long and reach down to the wrists.", "Both arms are covered by the long sleeves."),
    "short": ("The short sleeves end above the elbows.", "The lower arms are bare because the sleeves are short."),
    "none": ("The arms are bare up to the shoulders.", "As there are no sleeves, both arms are bare."),
}
FRONTS: dict[str, Detail] = {  # what the neck and the chest of a garment show
    "t-shirt": ("It has a round neckline.", "It has a simple round collar."),
    "shirt": ("It has a collar and is closed with a row of buttons down the front.",),
    "sweater": ("It has a round neckline that lies close to the neck.",),
    "hoodie": ("It has two pale drawstrings below the hood, and there is a wide pocket across the belly.",),
    "jacket": ("It is not zipped up.", "It hangs open at the front."),
    "blazer": ("It has lapels, which form a deep neckline.",),
    "coat": ("It has wide lapels and is not buttoned.",),
    "tank top": ("It is cut low at the neck.",),
    "dress": ("A narrow belt in a darker shade marks the waist.",),
}
PATTERNS: dict[str, Detail] = {
    "striped": ("The stripes run across the body from the chest to the hem.", "The stripes are narrow and even."),
    "checked": ("The lines of the check cross each other all over the {kind}.", "The check is small and regular."),
    "dotted": ("The dots are small and cover the whole {kind}.", "Rows of small dots cover the cloth."),
    "printed": ("The print sits in the middle of the {place}, with a bar of the same colour below it.",),
    "two-tone": ("The part above the waist is {colour} and the part below it is {second}.",),
}
HEMS: dict[str, Detail] = {
    "coat": ("It reaches down almost to the knees.", "It is long and ends just above the knees."),
    "dress": ("It ends at the height of the knees.", "It gets wider towards the hem, which is at the knees."),
    "sweater": ("It has a ribbed hem that is a little darker.",),
}
LOWERS: dict[tuple[str, str], Detail] = {
    ("trousers", "long"): ("They are straight and reach down to the shoes.", "They cover the legs completely."),
    ("jeans", "long"): ("They are slightly faded on the thighs and reach down to the shoes.",),
    ("jeans", "cropped"): ("They end well above the ankles.", "They are too short to reach the ankles."),
    ("leggings", "long"): ("They fit tightly and follow the shape of the legs down to the ankles.",),
    ("leggings", "cropped"): ("They fit tightly and end in the middle of the shins.",),
    ("wide-leg trousers", "long"): ("They are loose and very wide at the bottom.",),
    ("tracksuit bottoms", "long"): ("A white stripe runs down the side of the legs.",),
    ("shorts", "knee-length"): ("They end just above the knees.", "They leave the lower legs bare."),
    ("shorts", "short"): ("They end in the middle of the thighs.", "They leave most of the legs bare."),
    ("skirt", "short"): ("It ends above the knees and falls in soft folds.",),
    ("skirt", "knee-length"): ("It reaches down to the knees and falls in soft folds.",),
    ("skirt", "long"): ("It falls in soft folds and ends a little above the ankles.",),
}
SHOES: dict[str, Detail] = {
    "leather shoes": ("They are smooth and have dark soles.", "They look formal and well polished."),
    "boots": ("They have thick, dark soles.", "They look solid and heavy."),
    "sandals": ("They leave the feet bare under the straps.", "They show the toes between the straps."),
    "heels": ("They are narrow and leave the top of the feet bare.", "They look elegant."),
    "flat shoes": ("They are narrow and have hardly any soles.", "They have no heels."),
}
BAGS: dict[tuple[str, str], Detail] = {
    ("backpack", "front"): ("It is worn on the back, and its two straps run over both shoulders.",),
    ("backpack", "back"): (
        "It covers most of the upper back and has a large pocket with a zip.",
        "It has a large pocket at the bottom and a short loop at the top.",
    ),
    ("backpack", "side"): ("It is worn on the back, with a strap over the shoulder.",),
    ("shoulder bag", "front"): ("It rests against the hip, and its strap runs diagonally across the chest.",),
    ("shoulder bag", "back"): ("It rests against the hip, and its strap runs diagonally across the back.",),
    ("shoulder bag", "side"): ("It hangs from a strap at the height of the hip and is closed by a flap.",),
    ("tote bag", "front"): ("It hangs from one shoulder on two thin handles.",),
    ("tote bag", "back"): ("It hangs from one shoulder on two thin handles.",),
    ("tote bag", "side"): ("It hangs from the shoulder on two thin handles and is nearly square.",),
    ("handbag", "front"): ("It is held by its two handles.", "It hangs from the hand beside the leg."),
    ("handbag", "back"): ("It is held by its two handles.", "It hangs from the hand beside the leg."),
    ("handbag", "side"): ("It is held by its two handles.", "It gets wider towards the bottom."),
    ("suitcase", "front"): ("It rolls beside the body on small wheels.", "It is pulled by a long handle."),
    ("suitcase", "back"): ("It rolls beside the body on small wheels.", "It is pulled by a long handle."),
    ("suitcase", "side"): ("It is pulled along behind on small wheels.", "It is pulled by a long handle."),
}
HATS: dict[str, Detail] = {
    "cap": ("It has a peak that is a little darker than the rest.",),
    "beanie": ("It has a folded edge and a small bobble on top.", "It is knitted and fits tightly."),
    "sun hat": ("It has a wide brim and a dark band around it.", "It is wide enough to shade the whole head."),
}
GLASSES: dict[str, Detail] = {
    "glasses": ("They have thin, dark frames.", "They have clear lenses in dark frames."),
    "sunglasses": ("They have dark lenses that hide the eyes.", "They are black and cover the eyes completely."),
}
SCARF: Detail = ("It is wrapped around once, and one end hangs down over the chest.", "It has one end hanging down.")
CARRIED: dict[str, Detail] = {
    "phone": ("It is held up in front of the body, as if to read a message.", "It is black and held up for reading."),
    "water bottle": ("It is light blue and has a white cap.",),
    "umbrella": ("It is dark blue, folded, and points to the ground.",),
    "coffee cup": ("It is white with a brown sleeve and is held up at the height of the chest.",),
    "book": ("It has a dark red cover and is held up in front of the body.",),
    "shopping bag": ("It is white and has a red label on it.",),
}


def details(name: str, person: Person, view: str) -> list[Detail]:
    """What a close look adds about one attribute in a view, the most telling first; empty if there is nothing more."""
    value = getattr(person, name)
    if name == "upper":
        return upper_details(person, value, view)
    if name == "lower":
        return lower_details(value)
    if name == "shoes":
        return shoe_details(value, view)
    hidden = {
        "hair": person.hat is not None,
        "hat": view == "back" and person.hat is not None and person.hat.kind == "cap",
        "scarf": view == "back",
    }
    if hidden.get(name, False):
        return []
    if name == "bag":
        return [BAGS[value.kind, view]]
    if name == "scarf":
        return [SCARF]
    if name in ("hair", "hat"):
        return [(HAIR if name == "hair" else HATS)[value.kind]]
    return [(GLASSES if name == "glasses" else CARRIED)[value]]


def upper_details(person: Person, upper: Upper, view: str) -> list[Detail]:
    """Pattern, front, sleeves and hem of the upper garment."""
    told: list[Detail] = []
    if upper.pattern in PATTERNS and shows_second(person, view):
        place = "chest" if view == "front" else "back"
        names = {"kind": upper.kind, "place": place, "colour": upper.colour, "second": upper.second}
        told.append(tuple(text.format(**names) for text in PATTERNS[upper.pattern]))
    elif upper.pattern == "plain" and upper.kind not in OUTERWEAR:
        told.append(("It is plain, without any pattern.", f"It is {upper.colour} all over."))
    if view == "front" and (person.scarf is None or upper.kind in ("dress", *OUTERWEAR)):
        told.append(FRONTS[upper.kind])
    told.append(SLEEVES[upper.sleeve])
    if upper.kind in HEMS:
        told.append(HEMS[upper.kind])
    return told


def lower_details(lower: Lower) -> list[Detail]:
    """Cut and length of the lower garment; none where it comes in no such length."""
    cut = LOWERS.get((lower.kind, lower.length))
    return [cut] if cut else []


def shoe_details(shoes: Item, view: str) -> list[Detail]:
    """Soles, laces and shape of the shoes."""
    if shoes.kind != "trainers":
        return [SHOES[shoes.kind]]
    if shoes.colour not in WHITE_SOLED:
        return [("They look sporty.",)]
    soles = ("They have white soles.", "The soles are white.")
    return [soles, ("They have pale laces.",)] if view == "front" else [soles]
