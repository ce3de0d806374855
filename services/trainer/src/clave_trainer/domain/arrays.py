"""Names for the array types that the rules below pass around."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
