# SPDX-License-Identifier: Apache-2.0
"""The program of memory samples on guest kernels, which have no PMU: the host's tests, driven as there."""

import pytest

# Fixtures and tests are what pytest finds here under their names.
from test_capture_samples import (  # noqa: F401
    test_every_access_is_one_sample,
    test_loss_is_counted_to_the_sample,
    test_page_faults_can_drive_it_too,
)
from toucher import nothing_stays_loaded, toucher  # noqa: F401

# The oldest verifier and the newest.
pytestmark = [
    pytest.mark.needs("bcc"),
    pytest.mark.usefixtures("nothing_stays_loaded"),
    pytest.mark.guest(topology="cxl", kernels=("6.1", "7.3")),
]
