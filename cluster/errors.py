"""Errors of the cluster package that users are meant to see: a command prints one line, exits with the code."""


class ClusterError(Exception):
    """Something the user can mend (no room in the cluster, a wrong address); `exit_code` is 2."""

    exit_code = 2


class LaunchError(RuntimeError):
    """A rank failed; `exit_code` is the rank's own where its error carried one, else 1."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
