"""What the command lines share: errors in one line, documented exit codes, a parser that keeps to that."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sharding.errors import UserError


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


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """A function (done, total) that draws a bar with units per second on stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn(f"{{task.fields[rate]:,.0f}} {unit}/s")
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, rate=0.0)
        start = drawn = time.perf_counter()

        def show(done: int, total: int) -> None:
            nonlocal drawn
            now = time.perf_counter()
            if done == total or now - drawn > 0.1:
                drawn = now
                bar.update(task, completed=done, total=total, rate=done / (now - start))

        yield show
