"""The benchmarks of text-based person retrieval, a function each: where the files lie and what their rows call things.

| benchmark  | annotation                          | images  | the trap                                       |
| CUHK-PEDES | reid_raw.json or caption_all.json   | imgs/   | the second names no splits                     |
| ICFG-PEDES | ICFG-PEDES.json or ICFG_PEDES.json  | imgs/   | paths name the splits of another dataset       |
| RSTPReid   | data_captions.json                  | imgs/   | the path is called `img_path`                  |
| UFine6926  | the only JSON file, its name varies | images/ | no val split                                   |
| UFine3C    | the only JSON file                  | images/ | evaluation only; ids repeat between sources    |
"""

from functools import partial
from typing import Any

from sharding.record import RawDataset
from sharding.sources.annotation import BadField, corpus_of, integer, split_of
from sharding.sources.inputs import find_annotation, only_file
from sharding.sources.published import UNDIVIDED
from sharding.sources.rows import open_rows
from sharding.store import Store


def person_id(row: dict[str, Any]) -> str:
    """The person's `id`, an integer, as the identity spells it."""
    return str(integer(row, "id"))


def open_cuhk_pedes(store: Store) -> RawDataset:
    """CUHK-PEDES; `reid_raw.json` wins where both annotation files lie there.

    The original `caption_all.json` names no splits and the standard ones cannot be derived from it: its images are
    packed as split `all`, which no run trains on unless told to. As `train` they would leak the test people; divided
    anew, their figures would look like published ones and not be comparable with any.
    """
    annotation = find_annotation(store, "reid_raw.json", "caption_all.json")
    read = partial(open_rows, store, annotation, "imgs/", person=person_id, corpus=lambda row: "cuhk_pedes")
    return read() if annotation == "reid_raw.json" else read(split=lambda row: UNDIVIDED)


def open_icfg_pedes(store: Store) -> RawDataset:
    """ICFG-PEDES: only `split` counts, for the train/ or test/ in a path is that of MSMT17, its images' origin."""
    return open_rows(
        store,
        find_annotation(store, "ICFG-PEDES.json", "ICFG_PEDES.json"),
        "imgs/",
        person=person_id,
        corpus=lambda row: "icfg_pedes",
    )


def open_rstpreid(store: Store) -> RawDataset:
    """RSTPReid."""
    return open_rows(
        store,
        find_annotation(store, "data_captions.json"),
        "imgs/",
        person=person_id,
        corpus=lambda row: "rstpreid",
        path_field="img_path",
    )


def open_ufine6926(store: Store) -> RawDataset:
    """UFine6926."""
    return open_rows(
        store,
        only_file(store, ".json", "UFine6926.json", "one, the annotation"),
        "images/",
        person=person_id,
        corpus=lambda row: "ufine6926",
    )


def open_ufine3c(store: Store) -> RawDataset:
    """UFine3C: a row that is not of split `test` is refused, so that nothing ever trains on it."""
    return open_rows(
        store,
        only_file(store, ".json", "UFine3C.json", "one, the annotation"),
        "images/",
        person=person_id,
        corpus=corpus_of,
        split=test_only,
    )


def test_only(row: dict[str, Any]) -> str:
    """The split `test`, which is all that an evaluation set has."""
    if split_of(row) != "test":
        raise BadField("split: UFine3C is for evaluation only, test was expected")
    return "test"
