"""The benchmarks of text-based person retrieval, a function each: where the files lie and what their rows call things.

| benchmark  | annotation                          | images  | the trap                                       |
| CUHK-PEDES | reid_raw.json or caption_all.json   | imgs/   | the second names no splits                     |
| ICFG-PEDES | ICFG-PEDES.json or ICFG_PEDES.json  | imgs/   | paths name the splits of another dataset       |
| RSTPReid   | data_captions.json                  | imgs/   | the path is called `img_path`                  |
| UFine6926  | the only JSON file, its name varies | images/ | no val split                                   |
| UFine3C    | the only JSON file                  | images/ | evaluation only; ids repeat between sources    |
"""

from pathlib import Path
from typing import Any

from sharding.record import RawDataset
from sharding.sources.annotation import BadField, corpus_of, find_annotation, integer, only_json, split_of
from sharding.sources.rows import open_rows


def person_id(row: dict[str, Any]) -> str:
    """The person's `id`, an integer, as the identity spells it."""
    return str(integer(row, "id"))


def open_cuhk_pedes(input_dir: Path) -> RawDataset:
    """CUHK-PEDES; `reid_raw.json` wins where both annotation files lie there.

    The original `caption_all.json` names no splits and the standard ones cannot be derived from it: its images are
    packed as split `all`, which no run trains on unless told to, rather than as `train`, which would leak the test
    people.
    """
    annotation = find_annotation(input_dir, "reid_raw.json", "caption_all.json")
    return open_rows(
        annotation,
        input_dir / "imgs",
        person=person_id,
        corpus=lambda row: "cuhk_pedes",
        split=split_of if annotation.name == "reid_raw.json" else lambda row: "all",
    )


def open_icfg_pedes(input_dir: Path) -> RawDataset:
    """ICFG-PEDES: only `split` counts, for the train/ or test/ in a path is that of MSMT17, its images' origin."""
    annotation = find_annotation(input_dir, "ICFG-PEDES.json", "ICFG_PEDES.json")
    return open_rows(annotation, input_dir / "imgs", person=person_id, corpus=lambda row: "icfg_pedes")


def open_rstpreid(input_dir: Path) -> RawDataset:
    """RSTPReid."""
    annotation = find_annotation(input_dir, "data_captions.json")
    images, path_field = input_dir / "imgs", "img_path"
    return open_rows(annotation, images, person=person_id, corpus=lambda row: "rstpreid", path_field=path_field)


def open_ufine6926(input_dir: Path) -> RawDataset:
    """UFine6926."""
    return open_rows(only_json(input_dir), input_dir / "images", person=person_id, corpus=lambda row: "ufine6926")


def open_ufine3c(input_dir: Path) -> RawDataset:
    """UFine3C: a row that is not of split `test` is refused, so that nothing ever trains on it."""
    annotation = only_json(input_dir)
    return open_rows(annotation, input_dir / "images", person=person_id, corpus=corpus_of, split=test_only)


def test_only(row: dict[str, Any]) -> str:
    """The split `test`, which is all that an evaluation set has."""
    if split_of(row) != "test":
        raise BadField("split: UFine3C is for evaluation only, test was expected")
    return "test"
