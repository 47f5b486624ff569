"""`sharding verify`: re-read a packed dataset and say what is damaged."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from sharding.command import positive, progress_bar
from sharding.store import open_store

if TYPE_CHECKING:
    from sharding.verify import Report
    from sharding.verify.samples import Affected
    from sharding.verify.shard import Finding

EPILOG = """examples:
  sharding verify shards/cuhk_pedes
  sharding verify s3://bucket/luperson_t --workers 8
  sharding verify shards/cuhk_pedes --fast
  sharding verify shards/cuhk_pedes --json > report.json

Every tar is read once, against the index beside it: its hash, and header, sha256, padding and metadata of every member.
Root hash, indexes, counts, tables and companion files are checked with it. What is damaged is listed by file, with the
samples concerned and where they lie in the tar: the first of each file, or all of them with --json. Files that are no
part of the dataset are told of, and no error. --fast compares sizes and hashes of whole files; it cannot name samples.

exit codes: 0 intact; 1 the system refused (no permission, no answer from S3); 2 not a packed dataset, or wrong
settings; 3 damage was found; 130 interrupted
"""
SHOWN_SAMPLES = 10  # of a file
SHOWN_FILES = 50
SHOWN_WARNINGS = 10


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "Re-read a packed dataset and say which samples are damaged."
    parser = commands.add_parser("verify", help=summary, description=summary, epilog=EPILOG)
    parser.add_argument("place", metavar="PLACE", help="what `sharding pack` wrote: a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--fast", action="store_true", help="sizes and hashes of files only")
    parser.add_argument("--workers", default=1, type=positive, metavar="N", help="processes of this machine (1)")
    parser.add_argument("--endpoint", metavar="URL", help="S3 service, if not Amazon's")
    parser.add_argument("--json", action="store_true", help="print the whole report as one JSON object")
    parser.set_defaults(run=run, again="start over")


def run(arguments: argparse.Namespace) -> None:
    """Verify and print the report; raises Damaged after it."""
    from sharding.verify import Damaged, verify

    with progress_bar("verifying", "MB") as bar:
        progress = bar and (lambda done, total: bar(done // 10**6, total // 10**6))
        report = verify(
            open_store(arguments.place, endpoint=arguments.endpoint),
            fast=arguments.fast,
            workers=arguments.workers,
            progress=progress,
        )
    print(json.dumps(as_json(report)) if arguments.json else as_text(report))
    if not report.intact:
        raise Damaged(verdict(report))


def as_json(report: "Report") -> dict[str, Any]:
    """The whole report as plain JSON values."""
    findings = [
        {**vars(finding), "affected": [sample._asdict() for sample in finding.affected]} for finding in report.findings
    ]
    return {
        **vars(report),
        "findings": findings,
        "intact": report.intact,
        "damaged_samples": report.damaged_samples,
        "seconds": round(report.seconds, 3),
    }


def as_text(report: "Report") -> str:
    """The report for people: a block for each damaged file, or the figures of an intact dataset."""
    lines = [line for finding in report.findings[:SHOWN_FILES] for line in _block(finding)]
    if (hidden := len(report.findings) - SHOWN_FILES) > 0:
        lines.append(f"… and {hidden:,} more findings (--json lists all)")
    lines += [f"note       {_plain(name)} is no part of the dataset" for name in report.warnings[:SHOWN_WARNINGS]]
    if (hidden := len(report.warnings) - SHOWN_WARNINGS) > 0:
        lines.append(f"note       and {hidden:,} more files that are no part of the dataset")
    lines.append(f"shards     {report.shards:,}, {report.bytes:,} bytes, {report.samples:,} samples")
    if report.root_hash:
        lines.append(f"root hash  {report.root_hash}")
    rate = report.bytes / report.seconds / 1e6
    outcome = "damaged" if report.findings else "sizes and hashes are right" if report.fast else "intact"
    lines.append(f"verified   in {report.seconds:.1f} s, {rate:,.0f} MB/s: {outcome}")
    return "\n".join(lines)


def verdict(report: "Report") -> str:
    """The one line for stderr."""
    files = sorted({finding.file for finding in report.findings})
    listed = ", ".join(files[:3]) + (f" and {len(files) - 3:,} more" if len(files) > 3 else "")
    samples = "" if report.fast else f", {report.damaged_samples:,} of {report.samples:,} samples"
    return f"{report.place} is damaged: {listed}{samples}"


def _block(finding: "Finding") -> list[str]:
    samples = f" ({'all ' if finding.whole else ''}{finding.samples:,} samples)" if finding.samples else ""
    lines = [f"{_plain(finding.file)} {_plain(finding.problem)}{samples}"]
    lines += [f"  {_line(sample)}" for sample in finding.affected[:SHOWN_SAMPLES]]
    if (hidden := len(finding.affected) - SHOWN_SAMPLES) > 0:
        lines.append(f"  … and {hidden:,} more (--json lists all)")
    return [*lines, ""]


def _line(sample: "Affected") -> str:
    if sample.member is None:
        return f"{_plain(sample.key)}: {sample.problem}"
    return f"{_plain(sample.member)} at byte {sample.offset:,}: {sample.problem}"


def _plain(text: str) -> str:
    """Names may come from a damaged file: nothing in them should reach a terminal as a command."""
    return text if text.isprintable() else ascii(text)
