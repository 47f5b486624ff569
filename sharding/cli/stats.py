"""`sharding stats`: what a packed dataset holds, and what is wrong with it."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sharding.command import progress_bar
from sharding.errors import UserError
from sharding.store import open_store

if TYPE_CHECKING:
    from sharding.stats import Figures, Stats
    from sharding.stats.overlaps import Duplicates, Leak, SharedCaptions
    from sharding.stats.samples import Occurrence

EPILOG = """\
examples:
  sharding stats shards/cuhk_pedes
  sharding stats s3://bucket/luperson_t --no-captions --json
  sharding stats shards/own --fail-on-leak

Words are separated by white space; unique words are lower-cased runs of letters, digits and inner hyphens. More than
75 words never fit CLIP's 77 tokens. A leak is a person or an image (the same bytes) in two splits, other than query
and gallery. With --no-captions only the indexes are read: no unique words, no shared captions.

exit codes: 0 done; 1 the system refused; 2 bad input; 3 a leak was found and --fail-on-leak given; 130 interrupted
"""
SHOWN_REASONS = 10
SHOWN_TEXT = 90  # characters


class LeakFound(UserError):
    """The dataset was measured, and two of its splits overlap."""

    exit_code = 3


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "Count what a packed dataset holds; find leaks between splits, duplicates and shared captions."
    parser = commands.add_parser("stats", help=summary, description=summary, epilog=EPILOG)
    parser.add_argument("place", metavar="PLACE", help="what `sharding pack` wrote: a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--no-captions", action="store_true", help="read the indexes only")
    parser.add_argument("--fail-on-leak", action="store_true", help="exit with code 3 if two splits overlap")
    parser.add_argument("--endpoint", metavar="URL", help="S3 service, if not Amazon's")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object")
    parser.set_defaults(run=run, again="start over")


def run(arguments: argparse.Namespace) -> None:
    """Measure and print; raises LeakFound after it where that is asked for."""
    from sharding.stats import stats  # late: numpy

    with progress_bar("reading", "images") as progress:
        found = stats(
            open_store(arguments.place, endpoint=arguments.endpoint),
            captions=not arguments.no_captions,
            progress=progress,
        )
    print(json.dumps(asdict(found)) if arguments.json else as_text(found))
    if arguments.fail_on_leak and found.leaks:
        raise LeakFound(f"{found.place}: {'; '.join(_leak(leak) for leak in found.leaks)}")


def as_text(found: "Stats") -> str:
    """All that was found, for people."""
    rows = {**found.splits, "all splits": found.total}
    if len(found.sources) > 1:
        rows |= {f"source {_plain(name)}": figures for name, figures in found.sources.items()}
    lines = _table(rows, "", COUNTS)
    if found.total.words:
        lines += ["", *_table({name: one for name, one in rows.items() if one.words}, "words a caption", WORDS)]
    if found.total.width:
        lines += ["", *_table({name: one for name, one in rows.items() if one.width}, "pixels", SIZES)]
    if found.total.score:
        lines += ["", *_table({name: one for name, one in rows.items() if one.score}, "scores", SCORES)]
        lines += ["", *_histogram(found.total)]
    return "\n".join([*lines, "", *_findings(found)])


Columns = dict[str, Callable[["Figures"], str]]
COUNTS: Columns = {
    "images": lambda one: f"{one.images:,}",
    "captions": lambda one: f"{one.captions:,}",
    "identities": lambda one: f"{one.identities:,}",
    "no caption": lambda one: f"{one.without_captions:,}",
    "image bytes": lambda one: f"{one.image_bytes:,}",
}
WORDS: Columns = {
    "min": lambda one: f"{one.words.least:,}" if one.words else "",
    "mean": lambda one: f"{one.words.mean:,.1f}" if one.words else "",
    "median": lambda one: f"{one.words.median:,.0f}" if one.words else "",
    "p95": lambda one: f"{one.words.p95:,.0f}" if one.words else "",
    "max": lambda one: f"{one.words.greatest:,}" if one.words else "",
    "over 75": lambda one: f"{one.words.long:,}" if one.words else "",
    "unique words": lambda one: "not read" if one.unique_words is None else f"{one.unique_words:,}",
}
SIZES: Columns = {
    "width": lambda one: f"{one.width.least}–{one.width.greatest}" if one.width else "",
    "median w": lambda one: f"{one.width.median:g}" if one.width else "",
    "height": lambda one: f"{one.height.least}–{one.height.greatest}" if one.height else "",
    "median h": lambda one: f"{one.height.median:g}" if one.height else "",
    "  commonest width × height": lambda one: ", ".join(f"{w}×{h} ({n:,})" for w, h, n in one.sizes[:2]),
}
SCORES: Columns = {
    "images": lambda one: f"{one.score.images:,}" if one.score else "",
    "min": lambda one: f"{one.score.least:.3f}" if one.score else "",
    "mean": lambda one: f"{one.score.mean:.3f}" if one.score else "",
    "max": lambda one: f"{one.score.greatest:.3f}" if one.score else "",
}


def _table(rows: "dict[str, Figures]", title: str, columns: Columns) -> list[str]:
    """Aligned lines, a column's head above them."""
    cells = [[title, *columns], *([name, *(show(one) for show in columns.values())] for name, one in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{row[0]:<{max(widths[0], 15)}}"
        + "".join(f"  {cell:>{max(w, 10)}}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]


def _histogram(figures: "Figures") -> list[str]:
    """A bar for each bin of the scores."""
    score = figures.score
    assert score is not None
    most = max(score.counts)
    return [
        f"{low:>8.3f} to {high:<8.3f} {count:>9,}  {'▇' * round(40 * count / most)}".rstrip()
        for low, high, count in zip(score.edges, score.edges[1:], score.counts, strict=False)
    ]


def _findings(found: "Stats") -> list[str]:
    """Leaks first: nothing else here spoils results as they do."""
    lines = [*_leaks(found.leaks), *_duplicates(found.duplicates), *_shared(found.shared_captions)]
    if found.triplets:
        lines.append(f"triplets   {found.triplets:,}")
    if found.left_out:
        lines.append(f"left out   {found.left_out:,} by the selection")
    if found.dropped_captions:
        lines.append(f"dropped    {found.dropped_captions:,} unusable captions of packed images (rejects.parquet)")
    lines.append(f"rejects    {found.rejects:,}" + ("   (rejects.parquet)" if found.rejects else ""))
    reasons = list(found.reject_reasons.items())
    lines += [f"{number:>12,}  {_plain(reason)}" for reason, number in reasons[:SHOWN_REASONS]]
    if (hidden := len(reasons) - SHOWN_REASONS) > 0:
        lines.append(f"{'…':>12}  and {hidden} more reasons (rejects.parquet)")
    if found.differences:
        lines.append(f"note       not the published dataset: {'; '.join(map(_plain, found.differences))}")
    return [*lines, f"root hash  {found.root_hash}"]


def _leaks(leaks: "Sequence[Leak]") -> list[str]:
    lines = [] if leaks else ["leaks      none"]
    for leak in leaks:
        lines.append(f"LEAK       {_leak(leak)}")
        lines += [f"           the same person: {_same(pair)}" for pair in leak.identity_examples]
        lines += [f"           the same image: {_same(pair)}" for pair in leak.image_examples]
    return lines


def _duplicates(found: "Duplicates") -> list[str]:
    if not found.groups:
        return ["duplicates none"]
    spans = f"{found.across_splits:,} across splits, {found.across_identities:,} across identities"
    lines = [
        f"duplicates {found.images:,} images in {_counted(found.groups, 'group', 'groups')} of the same bytes: {spans}"
    ]
    return lines + [f"           {_same(group)}" for group in found.examples]


def _shared(found: "SharedCaptions | None") -> list[str]:
    if found is None:
        return ["captions   not compared"]
    lines = [f"captions   {found.captions:,} given to several identities"]
    for shared in found.examples:
        lines.append(f"           {shared.identities:,} people: {_short(shared.caption)}")
        lines.append(f"             {_same(shared.examples)}")
    return lines


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _leak(leak: "Leak") -> str:
    parts = [(leak.identities, "identity", "identities"), (leak.images, "image", "images")]
    shared = " and ".join(_counted(*part) for part in parts if part[0])
    return f"{leak.splits[0]} and {leak.splits[1]} share {shared}"


def _same(occurrences: "Sequence[Occurrence]") -> str:
    return " = ".join(f"{_plain(one.key)} [{one.split}, {_plain(one.identity)}]" for one in occurrences)


def _short(text: str) -> str:
    return _plain(text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…")


def _plain(text: str) -> str:
    """Captions and identities come from anywhere: nothing in them should reach a terminal as a command."""
    return text if text.isprintable() else ascii(text)
