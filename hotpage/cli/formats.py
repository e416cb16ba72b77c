# SPDX-License-Identifier: Apache-2.0
"""What verbs print for programs, and sizes that they are told."""

import json
import sys

from hotpage.errors import UsageError
from hotpage.views.units import SIZE_ADVICE, parse_size


def print_json(document: object, indent: int = 1) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=indent)
    sys.stdout.write("\n")


def size_option(option: str, text: str) -> int:
    """The bytes that an option gives. Raises UsageError."""
    try:
        return parse_size(text)
    except ValueError:
        raise UsageError(f"{option} {text} is no size", SIZE_ADVICE) from None
