"""The three data files as one object, checked: what is asked of an image, and how the answers are told."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from sharding.errors import UserError
from sharding.index import content_hash
from sharding.pseudo_text.templates import templates_from

REQUIRED = ("age", "gender", "upper_clothes", "lower_clothes", "action", "hair_length")
OPTIONAL = ("bag", "glasses", "smoke", "hat", "cellphone", "umbrella", "gloves", "vehicle")
# "A", and not "an", before these sounds: a uniform, a European coat, a one-piece.
CONSONANT_SOUNDS = ("uni", "use", "eu", "one")


def with_article(words: str) -> str:
    """The words with `a` or `an` before them."""
    vowel = words[0].lower() in "aeiou" and not words.lower().startswith(CONSONANT_SOUNDS)
    return f"{'an' if vowel else 'a'} {words}"


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """One value of an attribute; `one` says that it is a single thing, which takes an article."""

    name: str
    colour: str | None = None
    one: bool

    @property
    def asked(self) -> str:
        """As it stands in a prompt: `a light blue shirt`, `walking`."""
        return self.worded(self.colour, self.name)

    def worded(self, colour: str | None, name: str) -> str:
        """The same in other words."""
        words = f"{colour} {name}" if colour else name
        return with_article(words) if self.one else words


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """What is asked of an image: the columns of its scores are the phrases, then the sentences of absence."""

    name: str
    required: bool
    prompts: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    absent: tuple[str, ...]

    @cached_property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """For each score the sentences whose mean embedding is compared with the image."""
        asked = [tuple(prompt.format(phrase.asked) for prompt in self.prompts) for phrase in self.phrases]
        return (*asked, *((sentence,) for sentence in self.absent))


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Everything the data files say. `subjects` and `pronouns` are looked up by age and gender, `whole` names upper
    garments that are the lower one too."""

    attributes: tuple[Attribute, ...]
    subjects: Mapping[str, Mapping[str, tuple[str, ...]]]
    pronouns: Mapping[str, Mapping[str, str]]
    whole: frozenset[str]
    synonyms: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]
    hash: str  # of all three files' content

    @cached_property
    def phrases_hash(self) -> str:
        """sha256 (hex) of what scores depend on: the sentences of every column."""
        return content_hash([[attribute.name, attribute.columns] for attribute in self.attributes])

    def __getitem__(self, name: str) -> Attribute:
        return next(attribute for attribute in self.attributes if attribute.name == name)


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary of the data files; UserError, in one line, for a file that was edited into something else."""
    content = {name: _read(name) for name in ("attributes", "wording", "templates")}
    try:
        return parse(content["attributes"], content["wording"], content["templates"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"the data files of sharding/pseudo_text do not fit together: {error}") from None


def parse(attributes: dict[str, Any], wording: dict[str, Any], templates: dict[str, Any]) -> Vocabulary:
    """The vocabulary in the content of the three files; KeyError, TypeError, AttributeError or ValueError if there is
    none."""
    if set(attributes) != {*REQUIRED, *OPTIONAL}:
        raise ValueError(f"attributes.yaml has the attributes {sorted(attributes)}")
    found = Vocabulary(
        attributes=tuple(_attribute(name, attributes[name]) for name in (*REQUIRED, *OPTIONAL)),
        subjects={age: {who: tuple(words) for who, words in by.items()} for age, by in wording["subjects"].items()},
        pronouns=wording["pronouns"],
        whole=frozenset(wording["whole"]),
        synonyms={word: tuple(words) for word, words in wording["synonyms"].items()},
        templates=templates_from(templates),
        hash=content_hash([attributes, wording, templates]),
    )
    for age in found["age"].phrases:
        for gender in found["gender"].phrases:
            if not (found.subjects[age.name][gender.name] and found.pronouns[gender.name]):
                raise ValueError(f"wording.yaml has no subject for {age.name}, {gender.name}")
    return found


def _attribute(name: str, given: dict[str, Any]) -> Attribute:
    phrases = [
        Phrase(name=thing, colour=colour, one=kind == "one")
        for kind in ("one", "plain")
        for thing in given.get(kind, ())
        for colour in given.get("colours", (None,))
    ]
    attribute = Attribute(
        name=name,
        required=name in REQUIRED,
        prompts=tuple(given["prompts"]),
        phrases=tuple(phrases),
        absent=tuple(given.get("absent", ())),
    )
    if given["required"] != attribute.required or bool(attribute.absent) == attribute.required:
        kind = "required, without" if attribute.required else "optional, with"
        raise ValueError(f"{name} of attributes.yaml must be {kind} sentences of absence")
    if not phrases or len(set(phrases)) < len(phrases) or not attribute.prompts:
        raise ValueError(f"{name} of attributes.yaml needs prompts and phrases, each once")
    if not all(re.fullmatch(r"[^{}]*\{\}[^{}]*", prompt) for prompt in attribute.prompts):
        raise ValueError(f"{name} of attributes.yaml has a prompt without exactly one {{}}")
    return attribute


def _read(name: str) -> Any:
    import yaml

    try:
        return yaml.safe_load((files("sharding.pseudo_text") / f"{name}.yaml").read_text())
    except yaml.YAMLError as error:
        raise UserError(f"sharding/pseudo_text/{name}.yaml is no YAML: {' '.join(str(error).split())}") from None
