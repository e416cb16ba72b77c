# SPDX-License-Identifier: Apache-2.0
"""Where profiles live: the name that ``record`` gives and ``report`` looks for."""

from __future__ import annotations

import re
import time
from pathlib import Path

from hotpage.errors import ProfileError

_NAME = re.compile(r"hotpage-\d{8}-\d{6}")


def default_directory(started_unix_s: float) -> Path:
    """``hotpage-<date>-<time>`` in local time, relative to the working directory; names sort by age."""
    return Path(time.strftime("hotpage-%Y%m%d-%H%M%S", time.localtime(started_unix_s)))


def newest_profile(folder: Path) -> Path:
    """The newest default-named profile in ``folder``; ProfileError when there is none."""
    names = [path for path in folder.glob("hotpage-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    if not names:
        raise ProfileError(
            "there is no profile (hotpage-<date>-<time>) in this directory",
            "name one with -i DIR, or record one with: hotpage record",
        )
    return max(names, key=lambda path: path.name)
