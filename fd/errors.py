"""The one exception that a user's input can cause."""

from __future__ import annotations


class FdError(ValueError):
    """Input that cannot be used. The message is one line: the place, the value, what is allowed.

    Names and values in it may come from anywhere, so control characters and line breaks are escaped.
    """

    def __init__(self, message: str) -> None:
        """Keep the message, its control characters escaped."""
        super().__init__("".join(char if char.isprintable() else repr(char)[1:-1] for char in message))


def one_line(told: object) -> str:
    """The text of an error or a file, as one short line."""
    return " ".join(str(told).split())[:300] or type(told).__name__
