# SPDX-License-Identifier: Apache-2.0
"""What ``hotpage auto`` becomes once its command line has been read (running.become)."""

import json
import sys

from hotpage.errors import status_of
from hotpage.service.running import Given, run


def main() -> int:
    """Run as the one word says."""
    given = Given(**json.loads(sys.argv[1]))
    run(given, given.read())
    return 0


if __name__ == "__main__":
    sys.exit(status_of(main))
