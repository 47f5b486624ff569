"""`sharding tokenize`: write the captions of packed datasets as token ids, so that training need not encode them."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from sharding.command import positive, progress_bar
from sharding.dataset import open_dataset

EPILOG = """examples:
  sharding tokenize --data shards/pretrain_110k
  sharding tokenize --data shards/luperson_t s3://bucket/syncpr --workers 8

Beside each shard a file with the ids of CLIP's tokenizer for all of its captions is written; training uses it by
itself. Files that are there are kept, so the same command finishes what was interrupted and adds what an append needs.
They hold hashes of shard and tokenizer in their names: what was packed anew has to be tokenized anew.

exit codes: 0 done; 1 the system refused; 2 not a packed dataset, or a damaged one; 130 interrupted
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    summary = "Write the captions of packed datasets as token ids, beside the shards."
    parser = commands.add_parser("tokenize", help=summary, description=summary, epilog=EPILOG)
    parser.add_argument("--data", required=True, nargs="+", metavar="PLACE", help="packed datasets")
    parser.add_argument("--workers", default=1, type=positive, metavar="N", help="processes of this machine (1)")
    parser.add_argument("--endpoint", metavar="URL", help="S3 service, if not Amazon's")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each dataset")
    parser.set_defaults(run=run, again="finish it")


def run(arguments: argparse.Namespace) -> None:
    """Tokenize one dataset after the other; a line for each."""
    from sharding.store import open_store
    from sharding.tokens import tokenize

    datasets = [open_dataset(open_store(place, endpoint=arguments.endpoint)) for place in arguments.data]
    for dataset in datasets:
        with progress_bar(f"tokenizing {dataset.name}", "samples") as bar:
            done = tokenize(dataset, workers=arguments.workers, progress=bar)
        if arguments.json:
            print(json.dumps({"data": str(dataset.store), **asdict(done)}))
        else:
            print(
                f"{dataset.store}: {done.captions:,} captions, {done.ids:,} ids in {done.written} files; "
                f"{done.kept} were there"
            )
