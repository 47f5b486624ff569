"""What the command lines share: errors in one line, documented exit codes, a parser that keeps to that."""

import argparse
import sys
from collections.abc import Callable
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
