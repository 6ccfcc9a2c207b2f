"""Made-up pairs and groups for audits of toy judges."""

from __future__ import annotations

import pytest

from rewardmesh.audit import JudgeData
from toy_judge import make_data


@pytest.fixture(scope="session")
def data() -> JudgeData:
    return make_data()
