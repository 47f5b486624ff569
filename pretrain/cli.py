"""`pretrain run | export | score-phrases`: train, write the weights for others to load, score images with them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain import phrases_cli
from sharding.command import OneLineParser, exit_code
from sharding.errors import UserError

if TYPE_CHECKING:
    from pretrain.model_card import Format

EXIT_CODES = "exit codes: 0 done, 1 a rank failed or the system refused, 2 wrong settings or input, 130 interrupted"
EPILOG = f"""examples:
  pretrain run --config pretrain/recipes/demo.yaml --optim.lr 5e-4
  pretrain export --run runs/demo --out runs/demo/export
  pretrain export --weights runs/demo/export --format onnx --out runs/demo/onnx
  pretrain score-phrases --data shards/bare --weights runs/demo/export --out scores.parquet

{EXIT_CODES}
"""
EXPORT = f"""formats:
  open_clip  a folder for open_clip.create_model("local-dir:DIR"), safetensors (the default)
  pt         the same with a torch state dict, read with weights_only
  hf         a folder for transformers' CLIPModel, with its image processor and tokenizer
  onnx       image.onnx (uint8 images) and text.onnx (padded ids); needs person-pretrain[onnx]
Each comes with a model card, README.md. Heads of fine-tuning are left out.

examples:
  pretrain export --run runs/demo --out runs/demo/export
  pretrain export --run runs/demo --format hf --out runs/demo/hf
  pretrain export --weights downloads/ViT-B-16.safetensors --quick-gelu --format hf --out weights/vit_b16
  pretrain export --weights weights/vit_b16 --format onnx --out weights/vit_b16_onnx

{EXIT_CODES}
"""
FORMATS = ("open_clip", "pt", "hf", "onnx")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        from pretrain.run import main as run

        return run(arguments[1:])
    options = argument_parser().parse_args(arguments)
    return exit_code("pretrain", lambda: options.action(options))


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the subcommands but `run`, which has its own."""
    description = "Pre-train an image-text dual encoder on person data."
    parser = OneLineParser(prog="pretrain", description=description, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser(
        "run", help="train by a settings file (pretrain run --help lists every setting)", add_help=False
    )
    export_parser = commands.add_parser(
        "export",
        help="write weights for open_clip, transformers or ONNX, with a model card",
        description="Write weights for open_clip, transformers or ONNX, with a model card.",
        epilog=EXPORT,
    )
    source = export_parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="the run whose newest checkpoint is exported")
    source.add_argument(
        "--weights", type=Path, help="or weights to convert: an open_clip file or folder, a CLIPModel folder"
    )
    export_parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    export_parser.add_argument("--format", choices=FORMATS, default="open_clip", help="default: open_clip")
    export_parser.add_argument(
        "--quick-gelu", action="store_true", help="the --weights are OpenAI's, or have their activation"
    )
    export_parser.set_defaults(action=write)
    phrases_cli.add_parser(commands)
    return parser


def write(options: argparse.Namespace) -> None:
    """`pretrain export`: write the folder and print its name."""
    print(exported(options))


def exported(options: argparse.Namespace) -> Path:
    """Do what `pretrain export` was asked for; returns the folder."""
    if options.weights:
        return convert(options.weights, options.out, options.format, quick_gelu=options.quick_gelu or None)
    if options.quick_gelu:
        raise UserError("--quick-gelu goes with --weights: a run knows its activation")
    return export(options.run, options.out, options.format)


def export(run: Path, out: Path, format: "Format" = "open_clip") -> Path:
    """Write the weights of the newest checkpoint of `run`; returns `out`. UserError where it has none."""
    from pretrain.export import export_run  # late: torch

    export_run(run, out, format)
    return out


def convert(weights: Path, out: Path, format: "Format", *, quick_gelu: bool | None = None) -> Path:
    """Write any weights the project reads in another format; returns `out`. UserError where it cannot read them."""
    from pretrain.export import export_weights  # late: torch

    export_weights(weights, out, format, quick_gelu=quick_gelu)
    return out


if __name__ == "__main__":
    sys.exit(main())
