"""The checks of a verifier audit, one a module, in the order of the report."""

from rewardmesh.audit.verifier.check import Check
from rewardmesh.audit.verifier.checks import agreement, determinism, metamorphic, speed

CHECKS: tuple[Check, ...] = (agreement.CHECK, metamorphic.CHECK, determinism.CHECK, speed.CHECK)
