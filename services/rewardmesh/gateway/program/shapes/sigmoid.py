"""`sigmoid: {centre: 0, scale: 1}`: 1 / (1 + exp(-(value - centre) / scale)), in [0, 1]."""

from __future__ import annotations

import math

from rewardmesh.gateway.program.scales import UNIT, Scale
from rewardmesh.gateway.program.shapes._base import Centred


class Sigmoid(Centred):
    """The logistic function."""

    def scale(self, of: Scale) -> Scale:
        return UNIT

    def of(self, z: float) -> float:
        if z >= 0:
            return 1.0 / (1.0 + math.exp(-z))
        e = math.exp(z)
        return e / (1.0 + e)


SHAPE = Sigmoid
