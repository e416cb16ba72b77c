# SPDX-License-Identifier: Apache-2.0
"""The command line: one file per verb.

``hotpage.cli.VERB`` defines a function of the verb's own name; typer reads options and help from its
signature and docstring. It may return an exit status. A verb's module is imported only when that verb is
asked for, so that ``hotpage --help`` is quick and ``hotpage report`` never loads capture.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer

from hotpage import __version__
from hotpage.cli.closing import standard_error_may_close
from hotpage.errors import status_of

# A new verb is one new file and one new line here.
VERBS = {
    "auto": "Keep pages where they belong, as a service or in the foreground.",
    "demo": "Profile a bundled workload whose hot pages are known.",
    "doctor": "Say what works on this machine, what does not, and what to do.",
    "move": "Move hot pages to fast memory, cold ones out of it.",
    "record": "Profile processes, a cgroup or a command into a directory.",
    "report": "Show a profile: hot, warm, cold and unknown memory.",
    "restore": "Put back the kernel settings that a killed session changed.",
    "tiers": "Show memory nodes and tiers, their latency and their knobs.",
    "top": "Watch processes live: which memory is hot, and where it lies.",
    "why": "Ask the running service why a page is where it is.",
}

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's own) and return its exit status.

    Wrong usage becomes one line on standard error as well; for all else see ``hotpage.errors.status_of``.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    with standard_error_may_close():
        return status_of(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    try:
        status = _command_line(words)(words, prog_name="hotpage", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "hotpage"
        print(f"hotpage: {_one_line(error.format_message())} (see {path} --help)", file=sys.stderr)
        return error.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    return status if isinstance(status, int) else 0


def _command_line(words: Sequence[str]) -> Callable[..., Any]:
    """Build the parser; the verbs that ``words`` cannot mean are names with a summary, not imported."""
    app = typer.Typer(add_completion=True, rich_markup_mode=None, context_settings={"max_content_width": 100})
    app.callback(invoke_without_command=True)(_global_options)
    completing = "_HOTPAGE_COMPLETE" in os.environ  # the shell asks: the words come by the environment
    for verb, summary in VERBS.items():
        wanted = completing or verb in words
        module = _import_verb(verb) if wanted else None
        settings = getattr(module, "CONTEXT_SETTINGS", None)
        run = getattr(module, verb) if module else _not_imported
        app.command(verb, short_help=summary, context_settings=settings)(run)
    return typer.main.get_command(app)


def _global_options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Which pages of which processes are hot, and do they sit in the memory they deserve?"""
    if version:
        typer.echo(f"hotpage {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def _import_verb(verb: str) -> ModuleType:
    """Import a verb's module, and numpy with it.

    numpy's linear algebra would start a thread per CPU that nobody needs: they cost start-up time, and would
    keep the privileges that ``record`` drops. The environment is left as it was, for the commands it runs.
    """
    before = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"
    try:
        return import_module(f"hotpage.cli.{verb}")
    finally:
        del os.environ[_BLAS_THREADS]
        if before is not None:
            os.environ[_BLAS_THREADS] = before


def _not_imported() -> None:
    """Stand for a verb that this command line does not name."""


def _one_line(message: str) -> str:
    words = " ".join(message.split()).rstrip(".")
    return words[:1].lower() + words[1:]
