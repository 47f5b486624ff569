"""The one error that users are meant to see: a command prints it as a single line and exits with its code."""


class UserError(Exception):
    """Something the user can mend: a missing input, an unknown setting."""

    exit_code = 2
