"""float32 values in JSON, as people expect to read them: 0.3, not 0.30000001192092896."""

from __future__ import annotations

import math

import numpy as np


def shortest(value: float) -> float | None:
    """The number with the fewest decimal digits that is the same float32; None for NaN and infinities, which JSON has not."""
    return float(str(np.float32(value))) if math.isfinite(value) else None


def microseconds(seconds: float) -> float | None:
    """A duration in seconds, to the microsecond; None for NaN and infinities."""
    return round(seconds, 6) if math.isfinite(seconds) else None
