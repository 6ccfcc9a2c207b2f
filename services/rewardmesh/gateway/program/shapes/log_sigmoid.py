"""`log_sigmoid: {centre: 0, scale: 1}`: log(1 / (1 + exp(-(value - centre) / scale))), at most 0 (nats)."""

from __future__ import annotations

import math

from rewardmesh.gateway.program.scales import LOG_PROB, Scale
from rewardmesh.gateway.program.shapes._base import Centred


class LogSigmoid(Centred):
    """Logarithm of the logistic function: linear for bad values, flat for good ones."""

    def scale(self, of: Scale) -> Scale:
        return LOG_PROB

    def of(self, z: float) -> float:
        return -math.log1p(math.exp(-z)) if z >= 0 else z - math.log1p(math.exp(z))


SHAPE = LogSigmoid
