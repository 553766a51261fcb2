"""The one exception that the command line shows without a traceback."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake that the person who started the program can mend.

    The message is one line: what was given, what was expected, where, and the fix. Names of settings stand in
    backticks with their value after `=`.
    """
