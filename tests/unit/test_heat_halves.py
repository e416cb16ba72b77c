# SPDX-License-Identifier: Apache-2.0
"""float16 and back against numpy's own conversion."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hotpage.heat.halves import narrowed, widened

EVERY = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
"""All finite ones from 0 on, subnormal ones included."""


def test_every_half_has_its_float() -> None:
    assert (widened(EVERY) == EVERY.astype(np.float32)).all()
    assert (widened(EVERY[::7]) == EVERY[::7].astype(np.float32)).all()


def test_every_half_comes_back() -> None:
    assert (narrowed(EVERY.astype(np.float32)) == EVERY).all()


def test_halfway_goes_to_the_even_one() -> None:
    middles = (EVERY[:-1].astype(np.float32) + EVERY[1:].astype(np.float32)) / 2
    assert (narrowed(middles) == middles.astype(np.float16)).all()


@given(st.lists(st.floats(0, 2.0**127, width=32), min_size=1))
def test_rounding_is_numpys_and_the_end_is_the_end(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    before = values.copy()
    expected = np.minimum(values, np.float32(65504)).astype(np.float16)
    assert (narrowed(values) == expected).all()
    assert (values == before).all()
