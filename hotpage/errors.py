"""What can go wrong, in one line each: what is wrong, and what to do about it.

Every error that a user can cause or meet is a HotpageError. A program prints its one line and exits with
``exit_status`` (``status_of``); library users catch the class.
"""

import io
import os
import sys
from collections.abc import Callable

INTERRUPTED = 128 + 2  # what a shell reports for a program ended by SIGINT


class HotpageError(Exception):
    """Base of all expected failures; ``str()`` is one line, "what is wrong: what to do"."""

    exit_status = 1

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}: {remedy}" if remedy else problem)


class UsageError(HotpageError):
    """An option or argument that makes no sense."""

    exit_status = 2


class PrivilegeError(HotpageError):
    """Root, a capability or a kernel policy is in the way."""


class MissingDependencyError(HotpageError):
    """Something that hotpage needs is not installed."""


class UnsupportedError(HotpageError):
    """This kernel or machine does not offer what was asked for."""


class CompileError(HotpageError):
    """The BPF compiler refused a program; carries the compiler's own words in ``compiler_output``."""

    def __init__(self, problem: str, remedy: str | None = None, compiler_output: str = "") -> None:
        super().__init__(problem, remedy)
        self.compiler_output = compiler_output


class AttachError(HotpageError):
    """The kernel refused to attach a program."""


class TargetError(HotpageError):
    """The process, cgroup or command to profile does not exist or has gone."""


class ProfileError(HotpageError):
    """A profile directory cannot be written or read."""


class KnobError(HotpageError):
    """A kernel setting cannot be read, written or restored."""


class SessionConflictError(HotpageError):
    """Another hotpage session stands in the way."""


def status_of(program: Callable[[], int]) -> int:
    """Run a program; its exit status.

    A HotpageError becomes one line ``hotpage: problem: remedy`` on standard error; an interrupt gives 130; a
    reader that closed the pipe is no news. Anything else is a bug and keeps its traceback. Characters that
    standard output cannot show are escaped, as on standard error: names may have any.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = program()
        sys.stdout.flush()
    except HotpageError as error:
        print(f"hotpage: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Standard output is flushed once more when Python ends: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
