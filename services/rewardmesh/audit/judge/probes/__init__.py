"""The probes of a judge audit, one a module, in the order of the report."""

from rewardmesh.audit.judge.probe import Probe
from rewardmesh.audit.judge.probes import (
    calibration,
    injection,
    length,
    paraphrase,
    position,
    repetition,
    self_preference,
    transitivity,
)

PROBES: tuple[Probe, ...] = (
    position.PROBE,
    length.PROBE,
    self_preference.PROBE,
    repetition.PROBE,
    transitivity.PROBE,
    paraphrase.PROBE,
    injection.PROBE,
    calibration.PROBE,
)
