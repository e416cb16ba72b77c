# SPDX-License-Identifier: Apache-2.0
"""scripts/bench: run one benchmark and say where it ran. ``bench_NAME.run()`` returns its numbers by name."""

import argparse
import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hotpage import __version__
from hotpage.errors import HotpageError

HERE = Path(__file__).parent
NAMES = sorted(file.stem.removeprefix("bench_") for file in HERE.glob("bench_*.py"))


def where_and_when() -> dict[str, str | int]:
    """Return what a reader needs to judge the numbers."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "hotpage": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpu": models[0].split(":", 1)[1].strip() if models else platform.machine(),
        "cores": os.cpu_count() or 1,
    }


def show(results: dict[str, object]) -> None:
    """Print one line per number."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    for name, value in results.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console(highlight=False, markup=False).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure hotpage, its peer beside it.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        numbers = importlib.import_module(f"bench_{options.name}").run()
    except HotpageError as error:
        print(f"hotpage: {error}", file=sys.stderr)
        return error.exit_status
    results = {"benchmark": options.name, **where_and_when(), **numbers}
    if options.json:
        print(json.dumps(results))
    else:
        show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
