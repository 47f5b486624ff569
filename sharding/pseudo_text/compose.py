"""Combine: the texts of an image from what was found on it, drawn by (seed, image key) and nothing else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

from sharding.pseudo_text.templates import fill
from sharding.pseudo_text.vocabulary import Phrase, Vocabulary

T = TypeVar("T")
Found = Mapping[str, Phrase | None]  # by attribute; None: not there

WORD = re.compile(r"[\w'-]+")
LISTS = {"worn": ("hat", "glasses", "gloves"), "held": ("bag", "umbrella", "cellphone", "smoke")}


class Draw:
    """Choices that depend on the key and their own name alone: neither order nor other choices change them."""

    def __init__(self, *key: str | int) -> None:
        self._key = repr(key)

    def pick(self, name: str, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely."""
        digest = blake2b(f"{self._key} {name}".encode(), digest_size=8).digest()
        return choices[int.from_bytes(digest) % len(choices)]


def compose(words: Vocabulary, found: Found, *, seed: int, key: str, texts: int) -> tuple[str, ...]:
    """`texts` texts about one image, each by a template and words of its own; no two take the same template.

    `found` has a phrase for every required attribute.
    """
    turn = Draw(seed, key).pick("turn", range(texts))
    drawn = []
    for number in range(texts):
        draw = Draw(seed, key, number)
        template = draw.pick("template", words.templates[(number + turn) % texts :: texts])
        drawn.append(fill(template, blanks(words, found, draw)))
    return tuple(drawn)


def blanks(words: Vocabulary, found: Found, draw: Draw) -> dict[str, str]:
    """What goes into the blanks of a template: synonyms chosen, lists put in some order, "" for what is not there."""
    told = {name: _told(words, name, phrase, draw) for name, phrase in found.items() if phrase is not None}
    age, gender, upper = found["age"], found["gender"], found["upper_clothes"]
    assert age is not None
    assert gender is not None
    assert upper is not None
    subject = draw.pick("subject", words.subjects[age.name][gender.name])
    filled = {
        "subject": subject,
        "a subject": Phrase(name=subject, one=True).asked,
        **words.pronouns[gender.name],
        "hair": told["hair_length"],
        "action": told["action"],
        "upper": told["upper_clothes"],
        "lower": "" if upper.name in words.whole else told["lower_clothes"],
        "vehicle": told.get("vehicle", ""),
    }
    for blank, names in LISTS.items():
        filled[blank] = _listed([told[name] for name in names if name in told], draw.pick(blank, (False, True)))
    return filled


def _told(words: Vocabulary, name: str, phrase: Phrase, draw: Draw) -> str:
    """The phrase of an attribute in words drawn for it."""
    colour = phrase.colour and draw.pick(f"{name} colour", words.synonyms.get(phrase.colour, (phrase.colour,)))
    return phrase.worded(colour, draw.pick(name, words.synonyms.get(phrase.name, (phrase.name,))))


def _listed(things: list[str], backwards: bool) -> str:
    """`a`, `a and b`, `a, b and c`, in this or the reverse order."""
    if backwards:
        things = things[::-1]
    return " and ".join(filter(None, (", ".join(things[:-1]), *things[-1:])))


def distinct(texts: Iterable[str], n: int = 2) -> float:
    """Distinct-n: the share of different runs of n words among all of them (Li et al. 2016); 0 where there are none.

    It falls as texts are added, so only figures of equally many texts can be compared.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = WORD.findall(text.lower())
        runs = list(zip(*(words[start:] for start in range(n)), strict=False))
        seen.update(runs)
        total += len(runs)
    return len(seen) / total if total else 0.0
