"""Finding verifiers, and what importing them costs."""

import pkgutil
import subprocess
import sys

import pytest

from rewardmesh.verifier import verifiers
from rewardmesh.verifier.registry import discover
from rewardmesh.verifier.verdicts import Status, Verdict


def test_built_in_verifiers_are_found_by_file_name() -> None:
    files = {entry.name for entry in pkgutil.iter_modules(verifiers.__path__)}
    assert list(discover()) == sorted(name.replace("_", "-") for name in files)
    assert {"contains", "exact-match", "groundedness", "length", "math", "regex", "rules", "trajectory"} <= set(discover())


def test_only_what_is_linear_runs_inline() -> None:
    assert {name for name, verifier in discover().items() if verifier.inline is True} == {"contains", "exact-match", "length"}
    assert {name for name, verifier in discover().items() if callable(verifier.inline)} == {"regex", "rules"}


def test_further_packages(hostile: str) -> None:
    assert {"forever", "greedy"} < set(discover([hostile]))
    with pytest.raises(ValueError, match="two verifiers are named"):
        discover([hostile, hostile])


def test_workers_do_not_import_heavy_packages() -> None:
    program = (
        "import sys; import rewardmesh.verifier.worker as w; w.discover();"
        "print(*(m for m in ('torch', 'transformers', 'numpy', 'grpc', 'google.protobuf', 'rewardmesh.serving') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("status", "score"), [(Status.PASS, 0.9), (Status.FAIL, 0.1), (Status.PARTIAL, 1.0), (Status.PARTIAL, float("nan"))]
)
def test_status_and_score_must_agree(status: Status, score: float) -> None:
    with pytest.raises(ValueError, match="cannot have score"):
        Verdict(status, score, "")
