# SPDX-License-Identifier: Apache-2.0
"""Fill a node with memory until little is left above its low watermark; says "full", holds it until killed.

The last steps are small, and repeated: the page cache is dropped, and reclaimed meanwhile.
"""

import mmap
import sys
import time
from pathlib import Path

from movetarget import MPOL_BIND, PAGE, set_policy

from hotpage.machine.numa import read_watermarks

STEP = 1 << 20
LEFT = 3 * STEP
ROUNDS = 4


def main() -> None:
    node = int(sys.argv[1])
    Path("/proc/self/oom_score_adj").write_text("-1000")
    set_policy(MPOL_BIND, node)
    kept: list[mmap.mmap] = []
    for _ in range(ROUNDS):
        Path("/proc/sys/vm/drop_caches").write_text("3")
        while True:
            marks = read_watermarks()[node]
            room = marks.free - marks.low
            if room < LEFT:
                break
            size = max(STEP, min(room // 2, 64 * STEP) // STEP * STEP)
            block = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for offset in range(0, size, PAGE):
                block[offset] = 1
            kept.append(block)
        time.sleep(0.5)
    print("full", flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    main()
