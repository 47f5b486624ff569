"""`pretrain run | export`: train, and write the trained weights for others to load."""

import argparse
import sys
from pathlib import Path

from sharding.command import OneLineParser, exit_code
from sharding.errors import UserError

EPILOG = """examples:
  pretrain run --config pretrain/recipes/demo.yaml --optim.lr 5e-4
  pretrain export --run runs/demo --out runs/demo/export

exit codes: 0 done, 1 a rank failed or the system refused, 2 wrong settings or missing input, 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        from pretrain.run import main as run

        return run(arguments[1:])
    options = argument_parser().parse_args(arguments)
    return exit_code("pretrain", lambda: print(export(options.run, options.out)))


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the subcommands but `run`, which has its own."""
    description = "Pre-train an image-text dual encoder on person data."
    parser = OneLineParser(prog="pretrain", description=description, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "run", help="train by a settings file (pretrain run --help lists every setting)", add_help=False
    )
    export_parser = commands.add_parser("export", help="write the newest checkpoint as a folder that open_clip loads")
    export_parser.add_argument("--run", type=Path, required=True, help="the run's directory")
    export_parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    return parser


def export(run: Path, out: Path) -> Path:
    """Write the weights of the newest checkpoint of `run` as an open_clip folder; returns it.

    Raises UserError where the run has no complete checkpoint.
    """
    from pretrain.checkpoint import find_latest, read_manifest, read_tensors
    from pretrain.config import settings_from
    from pretrain.weights import export_open_clip

    folder = find_latest(run / "checkpoints")
    if folder is None:
        raise UserError(f"no checkpoint in {run / 'checkpoints'}")
    manifest = read_manifest(folder)
    weights = read_tensors(folder, manifest, "weights.safetensors")
    export_open_clip(weights, settings_from(manifest.settings).model, out)
    return out


if __name__ == "__main__":
    sys.exit(main())
