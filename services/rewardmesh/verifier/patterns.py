"""Patterns whose search takes time linear in the text, whatever pattern and text: RE2's syntax, without look-around and back-references."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any

import re2  # type: ignore[import-untyped]
from pydantic import AfterValidator, StringConstraints

LARGEST_INLINE = 2_000
"""Instructions of a pattern's program up to which searching a text as long as inline checks read takes milliseconds in the worst case."""


@lru_cache(maxsize=512)
def linear(pattern: str, flags: str = "") -> re.Pattern[str]:
    """The compiled pattern, an object of RE2's with the methods of Python's; `flags` are letters of "ims", as in "(?im)".

    Raises:
        ValueError: RE2 cannot read it, or it would take too much memory.
    """
    try:
        compiled: re.Pattern[str] = re2.compile(f"(?{flags}){pattern}" if flags else pattern, _quiet())
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"RE2 cannot read it: {reason}") from error
    return compiled


def small(pattern: str, flags: str = "") -> bool:
    """Whether searching for it is cheap enough for the server's own process."""
    compiled: Any = linear(pattern, flags)
    return bool(compiled.programsize <= LARGEST_INLINE)


def _readable(pattern: str) -> str:
    linear(pattern)
    return pattern


LinearPattern = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_readable)]
"""The type of an option that holds a pattern of RE2."""


def _quiet() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options
