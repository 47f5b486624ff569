"""What the command lines share: errors in one line, documented exit codes, a parser that keeps to that."""

import argparse
import difflib
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from sharding.errors import UserError

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line instead of the whole usage, and keeps the help's own layout."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog.split()[0]}: {message} (see `{self.prog} --help`)\n")


def exit_code(program: str, action: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run `action`; 0, or what its failure is worth: 1 the system refused, a UserError's own code, 130 Ctrl-C.

    Each failure is told on stderr, a line for each problem; programmers' errors pass through with their traceback.
    """
    try:
        action()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"{program}: {line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: {interrupted}", file=sys.stderr)
        return 130
    return 0


def positive(text: str) -> int:
    """An argument that must be a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def name_of(what: str, known: Collection[str]) -> Callable[[str], str]:
    """An argument type: one of the `known` names; the error names the nearest one."""

    def check(value: str) -> str:
        if value in known:
            return value
        nearest = difflib.get_close_matches(value.lower().replace("-", "_"), known, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise argparse.ArgumentTypeError(f"there is no {what} {value!r}; {hint}known: {', '.join(known)}")

    return check


def byte_count(value: str) -> int:
    """A size such as 67108864, 64M or 1G (powers of 1024)."""
    number, unit = (value[:-1], value[-1].upper()) if value[-1:].isalpha() else (value, "")
    if not number.isdecimal() or int(number) < 1 or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"a size such as 64M or 1G was expected, found {value!r}")
    return int(number) * UNITS[unit]


class Progress(Protocol):
    """Shows that `done` of `total` units are done (a total of 0 is not known yet); each label has a bar of its own."""

    def __call__(self, done: int, total: int, label: str = "") -> None: ...


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Progress | None]:
    """A function that draws bars with units per second on stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    rate = TextColumn(f"{{task.fields[rate]:,.0f}} {unit}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    began: dict[str, float] = {}
    drawn = 0.0
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def show(done: int, total: int, label: str = label) -> None:
            nonlocal drawn
            now = time.perf_counter()
            if label not in tasks:
                tasks[label], began[label] = bars.add_task(label, total=None, rate=0.0), now
            elif done == total or now - drawn > 0.1:
                drawn = now
                elapsed = max(now - began[label], 1e-3)
                bars.update(tasks[label], completed=done, total=total or None, rate=done / elapsed)

        yield show
