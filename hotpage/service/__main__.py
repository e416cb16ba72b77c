# SPDX-License-Identifier: Apache-2.0
"""What ``hotpage auto`` becomes once its command line has been read (running.become)."""

import json
import os
import sys

from hotpage.errors import HotpageError
from hotpage.service.running import Given, run


def main() -> int:
    """Run as the one word says, and end as ``hotpage.cli.main`` would."""
    try:
        run(Given(**json.loads(sys.argv[1])))
        sys.stdout.flush()
    except HotpageError as error:
        print(f"hotpage: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + 2  # what a shell reports for a program ended by SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
