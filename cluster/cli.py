"""`cluster submit | head`: run a command as a Ray job and get its exit code; run a Ray head on this machine."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from cluster.errors import ClusterError
from cluster.head import local_head
from cluster.submit import Job, named_address, submit

EXAMPLES = """\
examples:
  cluster submit -- python -m pretrain.run --config pretrain/recipes/demo.yaml
  cluster submit --address http://ray-head:8265 --env OMP_NUM_THREADS=8 -- python -m pretrain.run --config run.yaml
  cluster head --num-cpus 4
  cluster head -- ray job submit --working-dir . -- python -m pretrain.run --config pretrain/recipes/demo.yaml

exit codes:
  0    done
  1    the job failed before its command started, or was stopped by someone else
  2    a mistake in the command line or in what it names
  130  interrupted by Ctrl-C; the job has been stopped (143: by SIGTERM)
  otherwise: the exit code of the command itself
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments, entrypoint = _split(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    handler = signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        return _submit(options, entrypoint) if options.command == "submit" else _head(options, entrypoint)
    except ClusterError as error:
        print(f"cluster {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """What is ours and the job's command after the first `--`, which argparse would drop inside the command too."""
    if "--" not in argv:
        return argv, []
    place = argv.index("--")
    return argv[:place], argv[place + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    job = commands.add_parser(
        "submit",
        help="run a command as a Ray job, follow its log, return its exit code",
        usage="cluster submit [options] -- COMMAND [ARGUMENT ...]",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    job.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's job server (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else a head started here)",
    )
    job.add_argument(
        "--working-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="directory that is sent along and the job starts in (default: here; .rayignore says what stays behind)",
    )
    job.add_argument("--submission-id", metavar="ID", help="the job's name, never used before (default: Ray makes one)")
    job.add_argument("--env", action="append", default=[], metavar="K=V", help="a variable for the job; repeatable")
    job.add_argument("--no-wait", action="store_true", help="print the submission id and return at once")
    job.add_argument("--num-cpus", type=int, metavar="N", help="CPUs that a head started for this job offers")
    head = commands.add_parser(
        "head",
        help="run a Ray head on this machine: for one command, or until Ctrl-C",
        usage="cluster head [options] [-- COMMAND [ARGUMENT ...]]",
        description="COMMAND finds the head in RAY_API_SERVER_ADDRESS; its exit code is returned and the head stopped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    head.add_argument("--num-cpus", type=int, metavar="N", help="CPUs that the head offers (default: the machine's)")
    return parser


def _submit(options: argparse.Namespace, entrypoint: list[str]) -> int:
    if not entrypoint:
        raise ClusterError(
            "no command to run; write it after `--`, as in `cluster submit -- python -m pretrain.run ...`"
        )
    job = Job(
        entrypoint=entrypoint,
        working_dir=options.working_dir,
        submission_id=options.submission_id,
        environment=_variables(options.env),
    )
    address = options.address or named_address()
    if address is None and options.no_wait:
        raise ClusterError("--no-wait needs --address: a head started for this job ends with this command")
    if address is not None and options.num_cpus is not None:
        raise ClusterError(f"--num-cpus is for a head started here, but the job goes to {address}")
    if address is None:
        print("no cluster named: starting a Ray head on this machine for this job", file=sys.stderr)
    with nullcontext(address) if address is not None else local_head(options.num_cpus) as server:
        return submit(job, address=server, wait=not options.no_wait)


def _head(options: argparse.Namespace, command: list[str]) -> int:
    if command and shutil.which(command[0]) is None:
        raise ClusterError(f"there is no command {command[0]}")
    with local_head(options.num_cpus) as address:
        if command:
            # RAY_ADDRESS would overrule the other, and in the ranks it would mean a cluster that is not this one.
            variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
            return subprocess.run(command, env=variables | {"RAY_API_SERVER_ADDRESS": address}).returncode
        _say_how_to_use(address)
        while True:
            signal.pause()


def _say_how_to_use(address: str) -> None:
    print(address, flush=True)
    print("In another terminal:", file=sys.stderr)
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        token = os.environ["RAY_AUTH_TOKEN_PATH"]
        print(f"  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token}", file=sys.stderr)
    print(f"  ray job submit --address {address} --working-dir . -- python -m pretrain.run ...", file=sys.stderr)
    print("Ctrl-C here stops the head and its jobs.", file=sys.stderr, flush=True)


def _variables(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if not pair.partition("=")[0] or "=" not in pair:
            raise ClusterError(f"--env wants NAME=VALUE, got {pair!r}")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
