# SPDX-License-Identifier: Apache-2.0
"""Fill a node with memory but for a little above its high watermark; says "full", holds it until killed.

Farther down the kernel would reclaim for every page, which takes an emulated machine minutes.
"""

import mmap
import sys
import time
from pathlib import Path

from movetarget import MPOL_BIND, PAGE, set_policy

from hotpage.machine.numa import read_watermarks

STEP = 1 << 20
LEFT = 8 * STEP


def main() -> None:
    node = int(sys.argv[1])
    Path("/proc/self/oom_score_adj").write_text("-1000")
    Path("/proc/sys/vm/drop_caches").write_text("3")
    set_policy(MPOL_BIND, node)
    kept: list[mmap.mmap] = []
    while True:
        marks = read_watermarks()[node]
        room = marks.free - marks.high - LEFT
        if room < STEP:
            break
        size = min(room, 32 * STEP) // STEP * STEP
        block = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, size, PAGE):
            block[offset] = 1
        kept.append(block)
    print("full", flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    main()
