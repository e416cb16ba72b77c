# SPDX-License-Identifier: Apache-2.0
"""The kernel's own promotion, as one setting: held still while hotpage decides, hint faults going on.

Mode 2 of kernel.numa_balancing promotes pages of slow tiers by their hint latency, as many as
numa_balancing_promote_rate_limit_MBps allows: at 0, none. Mode 1 alone would move a page to the CPU that
touches it, tiers or not; with both bits set that holds among fast nodes only. So: limit 0, and bit 2 wherever
balancing is on. The one exception is the kernel's (numamigrate, pgdat_free_space_enough): while a fast node
has more than max(1 GiB, 1/16 of it) free above its watermark, it promotes regardless.
"""

from pathlib import Path
from typing import Final

from hotpage.errors import KnobError
from hotpage.machine.knobs import NUMA_BALANCING, KnobSession, read_knob

PROMOTE_RATE_LIMIT: Final = Path("/proc/sys/kernel/numa_balancing_promote_rate_limit_MBps")
ARMING_ONLY: Final = 3
"""The mode of kernel.numa_balancing that, with a limit of 0, arms pages and promotes none."""
_TIERING_BIT: Final = 2


def hold_promotion(knobs: KnobSession) -> bool:
    """Stop the kernel from promoting until the session of knobs ends; False where it cannot be stopped.

    Balancing that is off stays off.
    """
    try:
        knobs.write(PROMOTE_RATE_LIMIT, 0)
        mode = int(read_knob(NUMA_BALANCING))
        if mode and not mode & _TIERING_BIT:
            knobs.write(NUMA_BALANCING, mode | _TIERING_BIT)
    except (KnobError, ValueError):
        return False
    return True
