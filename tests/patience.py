# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for what comes at once on a machine with nothing else to do."""

PATIENCE_S = 180.0
"""Only what fails waits so long."""
