# SPDX-License-Identifier: Apache-2.0
"""Names for the array types that the heat package passes around; one dimension unless said otherwise."""

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Bytes8 = npt.NDArray[np.uint8]
Floats16 = npt.NDArray[np.float16]
Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Ints32 = npt.NDArray[np.int32]
Ints64 = npt.NDArray[np.int64]
Ticks = npt.NDArray[np.uint32]
"""Times in 1/1024 s since the session's start, plus one: 0 means "never"."""
