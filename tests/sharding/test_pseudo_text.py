"""Pseudo-texts without torch: what the data files can say, what scores decide, and the dataset that comes of it."""

import re
from importlib.resources import files
from itertools import product

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sharding.pseudo_text.choose import choose, presence
from sharding.pseudo_text.compose import Draw, compose, distinct
from sharding.pseudo_text.templates import fill
from sharding.pseudo_text.vocabulary import OPTIONAL, REQUIRED, parse, vocabulary, with_article
from sharding.synthetic.people import BAGS, CLOTHES_COLOURS, GLASSES, HATS, LOWERS, UPPERS

WORDS = vocabulary()
HERS, HIS = {"she", "her", "woman", "lady", "girl"}, {"he", "his", "him", "man", "male", "gentleman", "boy"}
COLOURS = {word for colour in CLOTHES_COLOURS for word in WORDS.synonyms.get(colour, (colour,))}


def wordings(attribute, phrase):
    """Every way in which a phrase may be told."""
    colours = WORDS.synonyms.get(phrase.colour, (phrase.colour,))
    names = WORDS.synonyms.get(phrase.name, (phrase.name,))
    return {phrase.worded(colour, name) for colour in colours for name in names}


def plain_words():
    """What never takes an article."""
    plain = [p.name for a in WORDS.attributes for p in a.phrases if not p.one and a.name != "action"]
    return sorted({word for name in plain for word in WORDS.synonyms.get(name, (name,))})


A_PLURAL = re.compile(rf"\ban? (?:(?:{'|'.join(sorted(COLOURS))}) )?(?:{'|'.join(plain_words())})\b", re.IGNORECASE)


def faults(text, gender):
    """What is wrong with the grammar of a text, as far as a program can tell."""
    tokens = set(re.findall(r"[a-z]+", text.lower()))
    sentences = text.removesuffix(".").split(". ")
    found = {
        "no full stop at the end": not text.endswith(".") or text.endswith(".."),
        "a sentence without a capital": not all(sentence[:1].isupper() for sentence in sentences),
        "a blank or bracket left": bool(re.search(r"[\[\]{}]", text)),
        "a space too many": text != " ".join(text.split()) or bool(re.search(r" [.,;:]", text)),
        "punctuation twice": bool(re.search(r"[.,;:]\s*[.,;:]", text)),
        "a before a vowel": bool(re.search(r"\ba [aeiou]", text, re.IGNORECASE)),
        "an before a consonant": bool(re.search(r"\ban [^aeiou]", text, re.IGNORECASE)),
        "an article twice": bool(re.search(r"\b(a|an|the|this) (a|an|the)\b", text, re.IGNORECASE)),
        "an article before a plural": bool(A_PLURAL.search(text)),
        "the other gender": bool(tokens & (HIS if gender == "woman" else HERS)),
        "nobody": not tokens & (HERS if gender == "woman" else HIS),
    }
    return [fault for fault, there in found.items() if there]


@st.composite
def people(draw):
    """What may be found on an image."""
    return {
        attribute.name: draw(st.sampled_from(attribute.phrases if attribute.required else (None, *attribute.phrases)))
        for attribute in WORDS.attributes
    }


def person(seed, rate=0.3):
    """A person by a seed, with each optional attribute at a rate."""
    dice = np.random.default_rng(seed)
    return {
        a.name: a.phrases[dice.integers(len(a.phrases))] if a.required or dice.random() < rate else None
        for a in WORDS.attributes
    }


def test_there_are_fourteen_attributes_and_at_least_456_templates():
    assert (len(REQUIRED), len(OPTIONAL)) == (6, 8)
    assert [attribute.name for attribute in WORDS.attributes] == [*REQUIRED, *OPTIONAL]
    assert len(set(WORDS.templates)) == len(WORDS.templates) >= 456


def test_the_phrases_fit_the_synthetic_people():
    clothes = {name: set(WORDS[name].phrases) for name in ("upper_clothes", "lower_clothes")}
    for name, kinds in (("upper_clothes", UPPERS), ("lower_clothes", LOWERS)):
        asked = {(phrase.colour, phrase.name) for phrase in clothes[name]}
        assert asked >= set(product(CLOTHES_COLOURS, {kind for by in kinds.values() for kind in by}))
    for name, kinds in (("bag", {kind for by in BAGS.values() for kind in by}), ("hat", HATS), ("glasses", GLASSES)):
        assert {phrase.name for phrase in WORDS[name].phrases} >= set(kinds)


def test_synonyms_stand_for_something_that_is_asked_and_for_one_thing_only():
    names = {phrase.name: phrase for attribute in WORDS.attributes for phrase in attribute.phrases}
    assert set(WORDS.synonyms) <= names.keys() | set(CLOTHES_COLOURS)
    told = [(name, word) for name, words in WORDS.synonyms.items() for word in set(words)]
    assert len({word for _, word in told}) == len(told)
    assert [(name, word) for name, word in told if word != name and word in names] == []


@pytest.mark.parametrize("gender", ["man", "woman"])
def test_every_template_is_grammatical_with_and_without_everything_that_may_be_missing(gender):
    for template, lower, worn, held, vehicle in product(
        WORDS.templates, ("", "blue jeans"), ("", "an old cap"), ("", "a tote"), ("", "an e-scooter")
    ):
        subject = WORDS.subjects["elderly person" if lower else "child"][gender][0]
        filled = {
            "subject": subject, "a subject": with_article(subject), **WORDS.pronouns[gender], "hair": "a bald head",
            "upper": "an orange coat", "lower": lower, "action": "walking along",
            "worn": worn, "held": held, "vehicle": vehicle,
        }  # fmt: skip
        text = fill(template, filled)
        assert faults(text, gender) == [], text
        told = [filled[name] for name in ("hair", "upper", "action", "lower", "worn", "held", "vehicle")]
        assert all(words.lower() in text.lower() for words in told)


@settings(max_examples=300)
@given(found=people(), seed=st.integers(0, 9), key=st.text(max_size=8))
def test_texts_are_grammatical_and_tell_what_was_found_and_nothing_else(found, seed, key):
    for text in compose(WORDS, found, seed=seed, key=key, texts=2):
        assert faults(text, found["gender"].name) == [], text
        for attribute in WORDS.attributes:
            if attribute.name in ("age", "gender"):
                continue
            phrase = found[attribute.name]
            if attribute.name == "lower_clothes" and found["upper_clothes"].name in WORDS.whole:
                phrase = None
            ways = {way.lower() for p in attribute.phrases if p == phrase for way in wordings(attribute, p)}
            assert not ways or any(way in text.lower() for way in ways), (text, ways)
        absent = {p for name in OPTIONAL if found[name] is None for p in WORDS[name].phrases}
        assert [p for p in absent if any(f" {way} " in f"{text[:-1].lower()} " for way in wordings(None, p))] == []


def test_texts_depend_on_seed_and_key_alone():
    found = person(0)
    texts = compose(WORDS, found, seed=3, key="a-000000001", texts=2)
    assert compose(WORDS, found, seed=3, key="a-000000001", texts=2) == texts
    assert len({texts, compose(WORDS, found, seed=4, key="a-000000001", texts=2)}) == 2
    assert len({texts, compose(WORDS, found, seed=3, key="a-000000002", texts=2)}) == 2


def test_no_template_is_used_twice_on_an_image():
    one_way = parse_with(synonyms={})
    found = person(1, rate=1)
    texts = compose(one_way, found, seed=0, key="k", texts=len(WORDS.templates))
    assert len(set(texts)) == len(texts)


def test_every_template_is_used():
    draws = [Draw(0, str(number), 0).pick("template", WORDS.templates) for number in range(10_000)]
    assert set(draws) == set(WORDS.templates)


GOLDEN = (
    (
        "The older woman in a white padded jacket and dark brown slacks has a bald head and is standing. She holds a "
        "handbag. She has an electric scooter close by."
    ),
    (
        "Wearing a white padded jacket and dark brown trousers, an elderly lady with a bald head is standing. The "
        "elderly lady carries a handbag. The elderly lady is next to an electric scooter."
    ),
    (
        "The camera shows a young adult woman with a shaved head walking in a black vest and pale blue tracksuit "
        "bottoms. She has gloves on."
    ),
    (
        "A young adult woman has a black waistcoat on, with pale blue sweatpants. She is walking and has a bald head."
        " She is wearing gloves."
    ),
    (
        "An older man with hair that falls past the shoulders is jogging in an orange button-up shirt and white denim"
        " jeans, with a sun hat. He is carrying a lit cigarette, a mobile phone and a messenger bag. Next to him is "
        "an e-scooter."
    ),
    (
        "An older man with long flowing hair can be seen running in an orange collared shirt and white jeans, wearing"
        " a sun hat, carrying a messenger bag, a cellphone and a cigarette, next to an electric scooter."
    ),
    (
        "The elderly man in a grey polo shirt and pale blue pants has long hair and is strolling. Eyeglasses and a "
        "beanie can be seen on him. He is carrying an umbrella."
    ),
    (
        "Walking along in a grey polo and light blue pants, the elderly man has hair that falls past the shoulders. "
        "He carries an umbrella. He has a woolly hat and glasses on."
    ),
    (
        "The middle-aged woman with long hair is squatting and wears a navy sleeveless top with dark blue shorts, "
        "carrying a crossbody bag, wearing a sun hat."
    ),
    (
        "In the picture a middle-aged woman with long hair is squatting, wearing a navy tank top and navy blue "
        "shorts, carrying a shoulder bag. She is also wearing a sun hat."
    ),
    (
        "This middle-aged woman has shoulder-length hair, wears a red t-shirt with pale blue wide-leg trousers and is"
        " running. She has put on a baseball cap. She holds a mobile phone and a suitcase. She has a bicycle close "
        "by."
    ),
    (
        "In the picture a middle-aged lady with hair down to the shoulders is running, wearing a red tee shirt and "
        "sky blue wide-leg trousers. She is carrying a cellphone and a suitcase. She is wearing a baseball cap. She "
        "is next to a bicycle."
    ),
    (
        "The young woman is crouching. She has hair cut short and is dressed in a grey padded jacket and yellow "
        "jeans. She wears gloves as well. She is beside an e-scooter."
    ),
    (
        "A young woman with hair cut short is crouching in a grey padded jacket and yellow denim jeans. The young "
        "woman also wears gloves. The young woman is next to an e-scooter."
    ),
    (
        "The elderly lady wears a grey coat with red tracksuit bottoms. She has long flowing hair, and she is "
        "running. She holds a backpack and a cigarette. She has a bicycle close by."
    ),
    (
        "A photo of an elderly woman with hair that falls past the shoulders, who is jogging in a gray winter coat "
        "and red tracksuit bottoms, holding a cigarette and a rucksack, with a bicycle at her side."
    ),
)


def test_a_reviewed_sample_stays_as_it_was_reviewed():
    texts = [text for number in range(8) for text in compose(WORDS, person(number), seed=0, key=str(number), texts=2)]
    assert tuple(texts) == GOLDEN


def test_texts_are_diverse():
    texts = [text for n in range(500) for text in compose(WORDS, person(n), seed=0, key=str(n), texts=2)]
    assert len(set(texts)) == len(texts)
    assert distinct(texts) > 0.05
    assert distinct(texts) > 5 * distinct([WORDS.templates[0]] * len(texts))


def test_distinct_2_is_the_share_of_different_word_pairs():
    assert distinct(["A b, a b.", "a c"]) == 3 / 4
    assert distinct([]) == 0


@given(cosines=arrays(np.float32, (5, 9), elements=st.floats(-1, 1, width=32)), scale=st.floats(1, 100))
def test_an_optional_attribute_is_told_by_its_best_phrase_where_it_is_probable_enough(cosines, scale):
    bag = WORDS["bag"]
    likely = np.exp(scale * cosines.astype(float))
    present = likely[:, :6].mean(1) / (likely[:, :6].mean(1) + likely[:, 6:].mean(1))
    assert np.allclose(presence(bag, cosines, scale), present)
    for threshold in (0.1, 0.5, 0.9):
        chosen = choose(bag, cosines, scale, threshold)
        told = presence(bag, cosines, scale) > threshold
        assert ((chosen >= 0) == told).all()
        assert (chosen[told] == cosines[told, :6].argmax(1)).all()


@given(cosines=arrays(np.float32, (4, 168), elements=st.floats(-1, 1, width=32)), threshold=st.floats(0, 0.99))
def test_of_a_required_attribute_the_best_phrase_is_told_whatever_the_threshold(cosines, threshold):
    assert (choose(WORDS["upper_clothes"], cosines, 50.0, threshold) == cosines.argmax(1)).all()


def test_a_model_that_sees_no_difference_says_one_half():
    for attribute in (WORDS[name] for name in OPTIONAL):
        assert presence(attribute, np.full((1, len(attribute.columns)), 0.3, np.float32), 100.0) == 0.5


def test_damaged_data_files_are_told_in_words():
    for change, words in (
        (lambda a, w, t: a.pop("hat"), "has the attributes"),
        (lambda a, w, t: a["bag"].pop("absent"), "with sentences of absence"),
        (lambda a, w, t: a["age"].update(prompts=["A photo."]), "without exactly one"),
        (lambda a, w, t: t["bodies"]["open"].append("{a subject} in {upper} and {lower}"), "stands outside"),
        (lambda a, w, t: t["bodies"]["open"].append("{a subject} in {upper}"), "leaves out"),
    ):
        content = contents()
        change(*content)
        with pytest.raises(ValueError, match=words):
            parse(*content)


def contents():
    """The content of the three data files, to be changed."""
    folder = files("sharding.pseudo_text")
    return [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("attributes", "wording", "templates")]


def parse_with(synonyms):
    attributes, wording, templates = contents()
    return parse(attributes, wording | {"synonyms": synonyms}, templates)
