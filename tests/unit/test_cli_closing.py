# SPDX-License-Identifier: Apache-2.0
"""A terminal that is closed while a verb runs."""

import errno
import io
import sys

import pytest

from hotpage.cli.closing import standard_error_may_close


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


def test_what_is_said_to_a_closed_terminal_is_lost_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Closed()
    monkeypatch.setattr(sys, "stderr", closed)
    with pytest.raises(OSError, match="Input/output"):
        print("nobody", file=sys.stderr)
    with standard_error_may_close():
        print("nobody", file=sys.stderr, flush=True)
        assert not sys.stderr.isatty()
    assert sys.stderr is closed


def test_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with standard_error_may_close():
        assert sys.stderr is None
