"""`pretrain score-phrases`: the scores that pseudo-texts are written from."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.command import positive, progress_bar
from sharding.errors import UserError

if TYPE_CHECKING:
    from pretrain.phrases import Scored

SUMMARY = "score phrases about a person's attributes on bare images, for `sharding pseudo-text`"
EPILOG = """examples:
  pretrain score-phrases --data shards/bare --weights runs/demo/export --out scores.parquet
  pretrain score-phrases --data shards/luperson --weights ViT-B-16.safetensors --quick-gelu --out scores.parquet
  torchrun --nproc-per-node 8 -m pretrain.cli score-phrases --data shards/luperson --weights vit_b16 --out s.parquet
  sharding pseudo-text --data shards/bare --scores scores.parquet --out shards/texts

--weights takes folders of `pretrain export` or of open_clip, .pt and .safetensors files, and Hugging Face CLIPModel
folders. Images are resized to the model's size. Phrases and prompts are those of sharding/pseudo_text/attributes.yaml.

Scores are cosines, a row an image. Finished parts are kept in OUT.parts until all are there: the same command goes on
after an interruption, on any number of ranks.

exit codes: 0 done, 1 the system refused (disk, memory), 2 wrong settings or missing input, 130 interrupted
(torchrun itself exits 1 whatever its ranks return)
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand's parser."""
    parser = commands.add_parser("score-phrases", help=SUMMARY, description=SUMMARY, epilog=EPILOG)
    parser.add_argument("--data", required=True, metavar="PLACE", help="a packed dataset")
    parser.add_argument("--weights", required=True, type=Path, metavar="PATH", help="of a CLIP model")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the Parquet file to write")
    parser.add_argument("--split", metavar="NAME", help="score this split only (default: all)")
    parser.add_argument("--batch-size", type=positive, default=256, metavar="N", help="images at a time (default: 256)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU, if any")
    parser.add_argument("--quick-gelu", action="store_true", help="the weights are OpenAI's, or have their activation")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(action=run)  # `run` is what `pretrain export` calls its --run


def run(options: argparse.Namespace) -> None:
    """Score and print on rank 0. Whatever can be wrong with the input is found before any image is read."""
    from pretrain.torchrun import on_all_ranks, rank

    try:
        work = _prepared(options)
    except UserError as error:  # every rank finds the same: one tells it
        if rank() == 0:
            raise
        sys.exit(error.exit_code)
    began = time.perf_counter()
    scored = on_all_ranks(work, gpu=_device(options.device) == "cuda")
    if rank() == 0:
        result = _summary(options.out, scored, time.perf_counter() - began)
        print(json.dumps(result) if options.json else _told(result))


def _prepared(options: argparse.Namespace) -> Callable[[], "Scored"]:
    """The work of a rank, once dataset, weights, phrases and output are known to be there and to fit."""
    from sharding.dataset import open_dataset, shards_of
    from sharding.pseudo_text.vocabulary import vocabulary

    dataset, words = open_dataset(options.data), vocabulary()
    if options.split is not None:
        shards_of(dataset, options.split)
    if not options.out.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder {options.out.absolute().parent}")
    if options.out.is_dir():
        raise UserError(f"--out: {options.out} is a folder")
    device = _device(options.device)

    import torch

    from pretrain.phrases import PhraseScorer, score_phrases
    from pretrain.torchrun import rank
    from pretrain.weights import check_weights, weights_settings

    settings = weights_settings(options.weights, quick_gelu=options.quick_gelu or None)
    check_weights(options.weights, settings)

    def work() -> "Scored":
        scorer = PhraseScorer(options.weights, settings, words, torch.device(device))
        with progress_bar("scoring", "images") if rank() == 0 else nullcontext() as progress:
            return score_phrases(
                dataset,
                scorer,
                options.out,
                split=options.split,
                batch_size=options.batch_size,
                progress=progress,
            )

    return work


def _device(asked: str) -> str:
    """cpu or cuda; UserError where a GPU is asked for and there is none."""
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError("--device cuda: there is no GPU here")
    return "cuda" if there and asked != "cpu" else "cpu"


def _summary(out: Path, scored: "Scored", seconds: float) -> dict[str, Any]:
    """The outcome as plain JSON values."""
    return {
        "scores": str(out),
        "images": scored.images,
        "already_complete": scored.already_complete,
        "seconds": round(seconds, 3),
        **asdict(scored.origin),
    }


def _told(result: dict[str, Any]) -> str:
    """The outcome for people."""
    if result["already_complete"]:
        return f"{result['scores']} was already complete: {result['images']:,} images"
    return f"{result['images']:,} images scored in {result['seconds']:.1f} s, written to {result['scores']}"
