# SPDX-License-Identifier: Apache-2.0
"""``python -m hotpage`` is ``hotpage``."""

import sys

from hotpage.cli import main

sys.exit(main())
