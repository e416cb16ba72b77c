# SPDX-License-Identifier: Apache-2.0
"""For tests with hypothesis; a guest would take seconds to load it."""

from hypothesis import settings

# Shared machines are slow at times; the checkout may be read-only for whom runs the tests.
settings.register_profile("hotpage", deadline=None, database=None)
settings.load_profile("hotpage")
