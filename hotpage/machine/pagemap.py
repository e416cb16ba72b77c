# SPDX-License-Identifier: Apache-2.0
"""/proc/PID/pagemap: whether and where each page is in memory (Documentation/admin-guide/mm/pagemap.rst)."""

import os
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hotpage.machine.proc import PROC

PRESENT: Final = np.uint64(1 << 63)
EXCLUSIVE: Final = np.uint64(1 << 56)
"""No other page table maps it."""
FRAME: Final = np.uint64((1 << 55) - 1)
"""Of the bits that number the page frame: all 0 where the kernel does not tell (no CAP_SYS_ADMIN)."""

_ENTRY_BYTES: Final = 8


def opened(pid: int | str, proc_root: Path = PROC) -> FileIO:
    """That of a process, or of "self". Raises OSError where it may not be read or the process has gone."""
    return (proc_root / str(pid) / "pagemap").open("rb", buffering=0)


def entries(file: FileIO, first: int, count: int) -> npt.NDArray[np.uint64]:
    """The entries of so many pages by number; fewer where the file ends. Also those of /proc/kpageflags, by
    page frame. Raises OSError.
    """
    return np.frombuffer(os.pread(file.fileno(), count * _ENTRY_BYTES, first * _ENTRY_BYTES), np.uint64)
