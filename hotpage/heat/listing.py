# SPDX-License-Identifier: Apache-2.0
"""All pages of a process in one ascending list, although they are stored in a dense and a sparse part."""

from collections.abc import Iterable

import numpy as np

from hotpage.arrays import Float32s, Int64s
from hotpage.heat.estimator import relative_error
from hotpage.heat.reading import PieceRates
from hotpage.heat.results import Rates


class _Listing:
    """Rates under construction, with room for ``count`` pages."""

    def __init__(self, count: int, current: bool) -> None:
        self._current = current
        self.vpn: Int64s = np.empty(count, dtype=np.int64)
        self.columns: list[Float32s] = [np.empty(count, dtype=np.float32) for _ in range(3)]

    def write(self, place: slice | Int64s, rates: PieceRates) -> None:
        self.vpn[place] = rates.piece.vpn
        long, short, error = self.columns
        rate, accesses = rates.current() if self._current else (rates.long(), rates.accesses())
        long[place] = rate
        short[place] = rates.short()
        error[place] = relative_error(accesses)

    def cut(self, count: int) -> Rates:
        return Rates(self.vpn[:count], *(column[:count] for column in self.columns))


def list_rates(
    dense: Iterable[PieceRates], dense_limit: int, sparse: Iterable[PieceRates], current: bool = False
) -> Rates:
    """Rates of all pieces; ``dense`` ascends, with at most ``dense_limit`` pages, ``sparse`` in any order.
    ``current``: see ``HeatTable.rates``.

    Each piece is written to its final place at once: the results are the largest arrays of a session.
    """
    scattered = list(sparse)
    scattered_vpn = np.sort(
        np.concatenate([np.empty(0, np.int64), *(rates.piece.vpn for rates in scattered)])
    )
    listing = _Listing(dense_limit + scattered_vpn.size, current)
    is_dense = np.zeros(listing.vpn.size if scattered else 0, dtype=np.bool_)
    count = 0
    for rates in dense:
        vpn = rates.piece.vpn
        before, before_last = np.searchsorted(scattered_vpn, (vpn[0], vpn[-1])).tolist()
        place: slice | Int64s = slice(count + before, count + before + vpn.size)
        if before != before_last:
            place = np.arange(count, count + vpn.size) + np.searchsorted(scattered_vpn, vpn)
        listing.write(place, rates)
        if scattered:
            is_dense[place] = True
        count += vpn.size
    if scattered:
        gaps = np.flatnonzero(~is_dense[: count + scattered_vpn.size])
        for rates in scattered:
            listing.write(gaps[np.searchsorted(scattered_vpn, rates.piece.vpn)], rates)
    return listing.cut(count + scattered_vpn.size)
