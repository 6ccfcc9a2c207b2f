"""The search against a judge whose principles are known: it finds the one behind the labels, and says why it refuses each other one."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rewardmesh.audit.judge import AuditPair
from rewardmesh.cli.app import app
from rewardmesh.client import AsyncClient, CallFailed
from rewardmesh.judge.constitutions import read_constitution
from rewardmesh.principles import JudgeChanged, Outcome, SearchError, Settings, find_principles, write_report
from rewardmesh.principles.outcome import Accuracy, Votes, accuracy

from .conftest import PrincipledJudge

Judge = tuple[PrincipledJudge, AsyncClient, str]

SHORT, LONG = "Prefer the shorter answer.", "Prefer the longer answer."
OTHERS = ("Prefer the answer that thanks.", "Prefer answers with more colours.")


async def search(judge: Judge, pairs: list[AuditPair], **changes: object) -> tuple[Outcome, list[tuple[str, int]]]:
    heard: list[tuple[str, int]] = []
    settings = Settings.model_validate({"proposals": 0, "candidates": (LONG, SHORT, *OTHERS), **changes})
    outcome = await find_principles(judge[1], pairs, settings, lambda *each: heard.append(each))
    return outcome, heard


async def test_it_finds_what_the_labels_follow_and_refuses_the_rest(judge: Judge, pairs: list[AuditPair]) -> None:
    outcome, heard = await search(judge, pairs)
    assert [each.text for each in outcome.chosen] == [SHORT]
    assert (outcome.before.value, outcome.after.value) == (0.5, 1.0)
    assert outcome.sizes == (80, 40, 40)
    found = {each.text: each for each in outcome.tested}
    assert found[SHORT].votes == Votes(agree=80, against=0, neutral=0, absent=0)
    assert found[LONG].votes.net == -1
    assert "net agreement with the labels is -1.00" in found[LONG].refused
    assert "the judge does not heed it" in found[OTHERS[1]].refused
    assert not found[OTHERS[0]].kept
    assert ("testing", 32) in heard
    assert any(what.startswith("tested longer: its net") for what, _ in heard)


async def test_the_judge_proposes(judge: Judge, pairs: list[AuditPair]) -> None:
    outcome, _ = await search(judge, pairs, proposals=20, candidates=())
    assert [each.source for each in outcome.tested] == ["proposed 10 times", "proposed 5 times"]
    assert [each.text for each in outcome.chosen] == ["Prefer the answer that is shorter."]
    assert outcome.unreadable == 5


async def test_held_out_pairs_decide_nothing(judge: Judge, pairs: list[AuditPair]) -> None:
    """Every principle is asked about tested and chosen pairs; about the held-out ones only the constitution, and none."""
    await search(judge, pairs)
    asked = judge[0].asked
    assert asked[-80:] == [()] * 40 + [(SHORT,)] * 40
    assert len(asked) == 80 * 5 + 40 * 2 + 80


async def test_absences_are_counted_and_vote_for_nothing(judge: Judge, pairs: list[AuditPair]) -> None:
    judge[0].silent = "Thanks"
    outcome, _ = await search(judge, pairs)
    votes = {each.text: each.votes for each in outcome.tested}[SHORT]
    assert votes.absent > 10
    assert votes.agree + votes.absent == 80
    assert outcome.absent["UNPARSABLE"] > 100
    judge[0].silent = "It is"
    outcome, _ = await search(judge, pairs)
    assert not outcome.constitution
    assert {each.refused for each in outcome.tested} == {"no pair got a verdict"}
    assert math.isnan(outcome.after.value)
    with pytest.raises(SearchError, match=r"wrote 0 lines that are no principles; 8 pairs had no verdict \(UNPARSABLE\)"):
        await search(judge, pairs, proposals=8, candidates=())


async def test_a_judge_that_changes_ends_it(judge: Judge, pairs: list[AuditPair]) -> None:
    def activate(what: str, count: int) -> None:
        judge[0].version = 2

    with pytest.raises(JudgeChanged, match="from toy version 1"):
        await find_principles(judge[1], pairs, Settings(proposals=0, candidates=(SHORT,)), activate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": ("Short",)}, "'Short' is no principle"),
        ({"candidates": ()}, "there is no candidate"),
        ({"take": 7}, "7 of 7 pairs have a label"),
        ({"take": 0}, "0 of 0 pairs"),
    ],
)
async def test_what_cannot_be_searched(judge: Judge, pairs: list[AuditPair], changes: dict[str, object], message: str) -> None:
    take = changes.pop("take", len(pairs))
    assert isinstance(take, int)
    with pytest.raises(SearchError, match=message):
        await search(judge, pairs[:take], **changes)
    with pytest.raises(CallFailed, match="no-such"):
        await search(judge, pairs, template="no-such")


def test_figures_of_nothing() -> None:
    assert Votes(0, 0, 0, 5).net_low == -1
    assert math.isnan(accuracy([None]).value)
    assert accuracy([0.5, 0.9, 0.1, None]) == Accuracy(1.5, 3, 1)
    low, high = Accuracy(10, 10, 0).interval
    assert 0.69 < low < 0.75
    assert high == pytest.approx(1)


async def test_the_files(judge: Judge, pairs: list[AuditPair], tmp_path: Path) -> None:
    settings = Settings(proposals=0, candidates=(SHORT, LONG, "Prefer [links](http://x) | to <b>."))
    outcome, _ = await search(judge, pairs, candidates=settings.candidates)
    files = write_report(outcome, settings, tmp_path / "found.yaml", "brief", 3, "pairs.jsonl")
    assert [file.name for file in files] == ["found.yaml", "found.json", "found.md", "found.png"]
    constitution = read_constitution(files[0])
    assert (constitution.name, constitution.version) == ("brief", 3)
    assert [each.text for each in constitution.principles] == [SHORT]
    report = files[2].read_text()
    assert "| held out, with the constitution | 100.0% |" in report
    assert r"\[links\](http://x) \| to \<b\>" in report
    assert json.loads(files[1].read_text())["heldout"]["after"]["share"] == 1


async def test_the_command(judge: Judge, pairs: list[AuditPair], tmp_path: Path) -> None:
    rows = [{"prompt": "2 + 2?", "a": each.a.text, "b": each.b.text, "label": each.label} for each in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "candidates.txt").write_text(f"# by hand\n{SHORT}\n\n{LONG}\n")
    command = ["principles", str(tmp_path / "pairs.jsonl"), "--target", judge[2], "--candidates", str(tmp_path / "candidates.txt")]
    command += ["--proposals", "0", "--out", str(tmp_path / "found.yaml")]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 0, result.output
    assert "50.0% without principles, 100.0% with them" in result.output
    assert (tmp_path / "found.yaml").exists()
    nothing = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--min-gain", "1", "--out", str(tmp_path / "none.yaml")])
    assert nothing.exit_code == 1
    assert "no principle makes the judge agree with more labels" in nothing.output
    assert not (tmp_path / "none.yaml").exists()
    assert (tmp_path / "none.md").exists()
