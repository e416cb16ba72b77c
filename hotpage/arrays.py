# SPDX-License-Identifier: Apache-2.0
"""Names for the array types that are passed around; one dimension unless said otherwise."""

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Uint8s = npt.NDArray[np.uint8]
Uint16s = npt.NDArray[np.uint16]
Uint32s = npt.NDArray[np.uint32]
Int16s = npt.NDArray[np.int16]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float16s = npt.NDArray[np.float16]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Ticks = npt.NDArray[np.uint32]
"""Times in 1/1024 s since the session's start, plus one: 0 means "never"."""
