"""`rewardmesh score`: a JSONL file in, the same file with scores out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewardmesh.cli.failure import USAGE, fail

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.client import ProgramScorer, RewardScorer, VerifierScorer


class Format(StrEnum):
    """Layouts of the input."""

    SAMPLES = "samples"
    GSM8K_ANSWERS = "gsm8k-answers"


def score(
    in_path: Annotated[Path, typer.Argument(metavar="IN.jsonl", exists=True, dir_okay=False)],
    out_path: Annotated[Path, typer.Argument(metavar="OUT.jsonl", dir_okay=False)],
    target: Annotated[
        str, typer.Option(help="host:port of the server; with --verifier it may be left out: one is started for the run")
    ] = "",
    reward: Annotated[str | None, typer.Option(metavar="MODEL", help="score with this reward model")] = None,
    verifier: Annotated[str | None, typer.Option(metavar="NAME", help="check with this verifier")] = None,
    program: Annotated[str | None, typer.Option(metavar="NAME", help="evaluate this program of a gateway")] = None,
    layout: Annotated[
        Format, typer.Option("--format", help="layout of the input; gsm8k-answers compares with is_correct")
    ] = Format.SAMPLES,
    timeout_seconds: Annotated[float, typer.Option(min=0.001, help="longest time for one batch of lines")] = 600.0,
) -> None:
    """Score samples: lines of {"prompt", "completion", "id"?, "references"?, "group_id"?, "tags"?}.

    Every output line holds the input's fields and "outcome". A bad line gets the absence INVALID_INPUT and stops nothing.
    Exit code 1 when nothing at all could be scored.
    """
    from rich.console import Console

    from rewardmesh.client import CallFailed

    scorer = _scorer(reward, verifier, program)
    if not target and verifier is None:
        fail("--target host:port is needed", USAGE)
    console = Console()
    try:
        with _server(target) as address:
            counts = _score(console, address, in_path, out_path, scorer, layout, timeout_seconds)
        _print_counts(console, counts, out_path)
        if layout is Format.GSM8K_ANSWERS:
            _print_agreement(console, out_path)
    except CallFailed as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename or out_path}: {error.strerror or error}")
    if counts and not counts.get("SCORED"):
        raise typer.Exit(1)


def _scorer(reward: str | None, verifier: str | None, program: str | None) -> RewardScorer | VerifierScorer | ProgramScorer:
    from rewardmesh.client import ProgramScorer, RewardScorer, VerifierScorer

    if sum(each is not None for each in (reward, verifier, program)) != 1:
        fail("give exactly one of --reward MODEL, --verifier NAME, --program NAME", USAGE)
    if reward is not None:
        return RewardScorer(reward or None)
    if verifier is not None:
        return VerifierScorer(verifier)
    return ProgramScorer(program or "")


@contextmanager
def _server(target: str) -> Iterator[str]:
    if target:
        yield target
        return
    from rewardmesh.cli.local_verifier import local_verifier
    from rewardmesh.serving.logs import configure_logging

    configure_logging("score", level="warning")
    with local_verifier() as address:
        yield address


def _score(
    console: Console,
    address: str,
    in_path: Path,
    out_path: Path,
    scorer: RewardScorer | VerifierScorer | ProgramScorer,
    layout: Format,
    timeout_s: float,
) -> dict[str, int]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from rewardmesh.cli.gsm8k_answers import expand
    from rewardmesh.client import Client, score_jsonl

    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with in_path.open("rb") as lines, Client(address, timeout_s=timeout_s) as client, Progress(*columns, console=console) as progress:
        expanded = layout is Format.GSM8K_ANSWERS
        task = progress.add_task("", total=sum(1 for _ in (expand(lines) if expanded else lines)), note="")
        lines.seek(0)

        def on_progress(done: int, counts: Mapping[str, int]) -> None:
            absent = sum(counts.values()) - counts.get("SCORED", 0)
            progress.update(task, completed=done, note=f"{absent} absent" if absent else "")

        source: Iterable[bytes] = expand(lines) if expanded else lines
        return score_jsonl(client, source, out_path, scorer, on_progress=on_progress, batch_lines=256, timeout_s=timeout_s)


def _print_counts(console: Console, counts: Mapping[str, int], out_path: Path) -> None:
    from rich.table import Table

    table = Table("outcome", "lines")
    for name, count in sorted(counts.items(), key=lambda item: (item[0] != "SCORED", item[0])):
        table.add_row(name, str(count))
    console.print(table)
    console.print(f"written: {out_path}", highlight=False, soft_wrap=True)


def _print_agreement(console: Console, out_path: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from rewardmesh.cli.gsm8k_answers import read_agreement

    agreement = read_agreement(out_path)
    if not agreement.compared:
        console.print("agreement with is_correct: nothing to compare")
        return
    same = agreement.compared - len(agreement.disagreements)
    console.print(f"agreement with is_correct: {same}/{agreement.compared} = {agreement.fraction:.2%}", highlight=False)
    if agreement.disagreements:
        table = Table("sample", "is_correct", "score", "answer read", "reference", title="disagreements", title_justify="left")
        for each in agreement.disagreements:
            table.add_row(each.id, str(each.is_correct), f"{each.value:g}", Text(each.extracted_answer), Text(each.reference))
        console.print(table)
