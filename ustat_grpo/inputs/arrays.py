"""NumPy arrays with their element type, which jaxtyping gives a shape: `Float[Array, "B G"]`.

Spelled out, because `numpy.typing.NDArray` is a type alias from NumPy 2.5 on, which jaxtyping
refuses.
"""

from typing import Any

import numpy as np

Array = np.ndarray[tuple[Any, ...], np.dtype[np.float64]]
Integers = np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
Booleans = np.ndarray[tuple[Any, ...], np.dtype[np.bool_]]
