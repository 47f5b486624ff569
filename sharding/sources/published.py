"""The sizes of the real datasets as published, by source and split: what a copy is held against.

PRETRAIN is published only as a whole and SynCPR has no splits, so their sizes stand under ALL_SPLITS. LUPerson-T is not
here: of it is known only that it has 1.28 M images with two texts each, too roughly to hold a copy against.
"""

from collections.abc import Collection

from sharding.record import Size

ALL_SPLITS = "all splits"  # in place of a split: the dataset as a whole
UNDIVIDED = "all"  # the split of images whose annotation tells of none

PUBLISHED: dict[str, dict[str, Size]] = {
    "pretrain_41k": {ALL_SPLITS: Size(images=41_017, captions=82_034, identities=4_080)},
    "pretrain_110k": {ALL_SPLITS: Size(images=109_937, captions=219_874, identities=4_391)},
    "syncpr": {ALL_SPLITS: Size(triplets=1_153_220)},
    "cuhk_pedes": {
        "train": Size(images=34_054, captions=68_126, identities=11_003),
        "val": Size(images=3_078, captions=6_158, identities=1_000),
        "test": Size(images=3_074, captions=6_156, identities=1_000),
    },
    "icfg_pedes": {
        "train": Size(images=34_674, captions=34_674, identities=3_102),
        "test": Size(images=19_848, captions=19_848, identities=1_000),
    },
    "rstpreid": {
        "train": Size(images=18_505, captions=37_010, identities=3_701),
        "val": Size(images=1_000, captions=2_000, identities=200),
        "test": Size(images=1_000, captions=2_000, identities=200),
    },
    "ufine6926": {
        "train": Size(images=18_577, captions=37_154, identities=4_926),
        "test": Size(images=7_629, captions=15_258, identities=2_000),
    },
    "ufine3c": {"test": Size(images=7_446, captions=37_939, identities=2_250)},
    # Two of the gallery's 20,510 rows repeat an image: those that add nothing to it are refused, so that up to two
    # fewer are packed. The identities are those of the queries; the distractors' are not published.
    "itcpr": {
        "query": Size(images=2_202, captions=2_202, identities=1_199),
        "gallery": Size(images=20_510, captions=0),
    },
}


def published_sizes(source: str, splits: Collection[str]) -> dict[str, Size]:
    """The published sizes that a copy with these splits is held against; none for a source without any.

    A benchmark read from an annotation without splits has one, UNDIVIDED: all of its splits, which share no people.
    """
    sizes = PUBLISHED.get(source, {})
    if UNDIVIDED not in splits or not sizes:
        return sizes
    images, captions, identities = (sum(size[part] or 0 for size in sizes.values()) for part in range(3))
    return {UNDIVIDED: Size(images, captions, identities)}
