"""The one exception that a user's input can cause."""


class FdError(ValueError):
    """Input that cannot be used. The message is one line: the place, the value, what is allowed."""
