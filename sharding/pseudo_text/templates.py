"""Templates: sentences with blanks and with brackets that vanish where a blank is empty; their grammar is told in
templates.yaml."""

import re
from collections.abc import Mapping
from typing import Any

ALWAYS = frozenset(("a subject", "subject", "he", "his", "him", "hair", "upper", "action"))
SOMETIMES = frozenset(("lower", "worn", "held", "vehicle"))  # these stand in brackets only
BLANK = re.compile(r"\{([^{}]*)\}")
BRACKET = re.compile(r"\[([^\[\]]*)\]")
SENTENCE_START = re.compile(r"(?:^|(?<=\. ))[a-z]")


def templates_from(content: Mapping[str, Any]) -> tuple[str, ...]:
    """All templates that the clauses of templates.yaml make, in the order of the file; ValueError for a bad clause."""
    bodies, endings = content["bodies"], content["endings"]
    parts = ((bodies["open"], endings["continuing"] + endings["sentences"]), (bodies["closed"], endings["sentences"]))
    templates = tuple(body + ending for front, back in parts for body in front for ending in back)
    for template in templates:
        _check(template)
    if not templates or len(set(templates)) < len(templates):
        raise ValueError("templates.yaml makes no template, or one of them twice")
    return templates


def fill(template: str, blanks: Mapping[str, str]) -> str:
    """The template with its blanks filled; brackets with an empty blank are left out, sentences begin with capitals.

    >>> fill("{a subject} is {action}[, with {worn}]. {he} is.", {"a subject": "a man", "action": "walking", "worn": "",
    ... "he": "he"})
    'A man is walking. He is.'
    """

    def bracket(found: re.Match[str]) -> str:
        return found[1] if all(blanks[name] for name in BLANK.findall(found[1])) else ""

    text = BLANK.sub(lambda found: blanks[found[1]], BRACKET.sub(bracket, template))
    return SENTENCE_START.sub(lambda found: found[0].upper(), text)


def _check(template: str) -> None:
    """ValueError unless every blank is known, and in brackets where it may be empty; all that is required is told."""
    inside = {name for found in BRACKET.findall(template) for name in BLANK.findall(found)}
    outside = set(BLANK.findall(BRACKET.sub("", template)))
    if not outside <= ALWAYS or not inside <= ALWAYS | SOMETIMES:
        raise ValueError(f"a blank of {template!r} is unknown, or one that may be empty stands outside of brackets")
    if not outside >= {"hair", "upper", "action"} or not outside & {"subject", "a subject"} or not inside >= SOMETIMES:
        raise ValueError(f"{template!r} leaves out an attribute")
    if re.search(r"[\[\]{}]", BLANK.sub("", BRACKET.sub("", template))):
        raise ValueError(f"{template!r} has a bracket that does not close, or one within another")
