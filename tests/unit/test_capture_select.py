# SPDX-License-Identifier: Apache-2.0
"""Picking records out of a batch."""

import numpy as np
import pytest

from hotpage.capture.events import EVENT_DTYPE, select


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_selected_records_are_whole_and_in_order(share: float) -> None:
    rng = np.random.default_rng(7)
    events = np.frombuffer(rng.bytes(500 * EVENT_DTYPE.itemsize), EVENT_DTYPE)
    rows = rng.random(500) < share
    chosen = select(events, rows)
    assert chosen.dtype == EVENT_DTYPE
    assert chosen.tolist() == [record for record, wanted in zip(events.tolist(), rows, strict=True) if wanted]
