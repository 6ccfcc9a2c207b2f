"""Shapes put a value on another scale; one file each, found by name.

How to add one: write `shapes/<name>.py` with a subclass of `Shape` (its fields are its arguments) and `SHAPE = <the class>`, and its test
in `tests/gateway/shapes/test_<name>.py`.
"""

from rewardmesh.gateway.program.shapes._base import Centre, Centred, Shape, statistics

__all__ = ["Centre", "Centred", "Shape", "statistics"]
