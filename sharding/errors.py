"""The error that users are meant to see, which commands print as a line, and one that tells code to look again."""


class UserError(Exception):
    """Something the user can mend: a missing input, an unknown setting."""

    exit_code = 2


class Conflict(Exception):
    """Somebody else has published in the meantime."""
