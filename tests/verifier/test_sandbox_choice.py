"""Which runtime is taken, and that none is never the answer to a missing one."""

import os
from pathlib import Path

import pytest

from rewardmesh.verifier.sandbox import programs
from rewardmesh.verifier.sandbox.folder import OwnedFolder
from rewardmesh.verifier.sandbox.languages import Language, Missing, find_languages
from rewardmesh.verifier.sandbox.limits import Limits, SandboxError
from rewardmesh.verifier.sandbox.sandboxes import SandboxConfig, open_sandboxes


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_languages()
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("bare")
async def test_without_a_runtime_there_is_no_box_and_a_remedy() -> None:
    opened = await open_sandboxes(SandboxConfig())
    assert opened.name == ""
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        async with opened.box():
            pass
    await opened.close()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("wanted", ["bubblewrap", "gvisor"])
async def test_a_runtime_that_is_wanted_by_name_must_work(wanted: str) -> None:
    with pytest.raises(SandboxError, match=f"{wanted}: .* is not installed"):
        await open_sandboxes(SandboxConfig(wanted=wanted))  # type: ignore[arg-type]


@pytest.mark.usefixtures("bare")
async def test_unsandboxed_only_by_name_and_not_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    opened = await open_sandboxes(SandboxConfig(wanted="unsandboxed", stock=0))
    assert opened.name == "unsandboxed"
    output = capsys.readouterr()
    assert "WITHOUT A SANDBOX" in output.out + output.err
    async with opened.box() as box:
        result = await programs.script(box, "import os; print(os.getcwd())", b"", Limits())
    work = Path(result.stdout.decode().strip())
    assert not work.exists()
    await opened.close()
    assert not work.parent.exists()


async def test_an_interpreter_that_cannot_run_the_agent_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(SandboxError, match="cannot run the sandbox's agent"):
        await open_sandboxes(SandboxConfig(wanted="bubblewrap", python=broken))


def test_what_a_killed_server_left_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "rewardmesh-kind-left").mkdir()
    first = OwnedFolder("kind")
    second = OwnedFolder("kind")
    assert sorted(tmp_path.iterdir()) == sorted([first.path, second.path])
    first.close()
    first.close()
    second.close()
    assert os.listdir(tmp_path) == []


def test_languages_name_what_is_missing() -> None:
    found = find_languages()
    assert isinstance(found["python"], Language)
    assert all(isinstance(one, Language) or (isinstance(one, Missing) and one.remedy) for one in found.values())
