"""A package that cannot be imported: one line with the environment variables that may be the cause.

Packages read environment variables while they are imported. At a value that they cannot use, they raise exceptions of
any kind.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType

from fd.errors import FdError, one_line


def import_failure(error: BaseException) -> str | None:
    """Return a line about an exception that a package raised while it was imported; None if it has another origin."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    own = max((index for index, name in enumerate(names) if name in ("__main__", "fd", "stages")), default=-1)
    foreign = zip(names[own + 1 :], frames[own + 1 :], strict=True)
    package = next((name for name, frame in foreign if frame.f_code.co_name == "<module>"), None)
    if package is None:
        return None
    told = str(error)
    given = [f"{name}={value!r}" for name, value in sorted(os.environ.items()) if _names(told, name, value)]
    cause = f"; the environment has {', '.join(given)}, allowed: no value, or one that {package} can use"
    return f"{package} cannot be imported: {type(error).__name__}: {one_line(told)}{cause if given else ''}"


def _names(told: str, name: str, value: str) -> bool:
    """Whether a message contains the name of a variable or its value, as a word; values below three letters are too common."""
    words = [name, value] if len(value) > 2 else [name]
    return any(re.search(rf"(?<![\w./-]){re.escape(word)}(?![\w./-])", told) for word in words)


def tell_import_failures() -> None:
    """From now on, an import that fails ends this program with one line and exit code 2, also before its `main` runs."""
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    told = import_failure(error)
    if told is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {FdError(told)}", file=sys.stderr)
        raise SystemExit(2)
