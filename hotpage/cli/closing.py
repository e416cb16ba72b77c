# SPDX-License-Identifier: Apache-2.0
"""A terminal may be closed while a verb runs: what it says then is lost, and what it does is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class _MayClose:
    """A text file on which writing never fails."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def standard_error_may_close() -> Iterator[None]:
    """Writing to standard error never fails meanwhile.

    Else a session that a hang-up ends would lose its last interval to the line that says so. Textual draws
    on ``sys.__stderr__`` from a thread: that would die, and everybody else wait for it.
    """
    before = sys.stderr, sys.__stderr__
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, _MayClose(sys.stderr))
    if sys.__stderr__ is not None:
        sys.__stderr__ = cast(Any, _MayClose(sys.__stderr__))  # type: ignore[misc]
    try:
        yield
    finally:
        sys.stderr, sys.__stderr__ = before  # type: ignore[misc]
