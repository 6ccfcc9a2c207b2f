"""`rewardmesh principles`: which principles explain labelled preferences, as a constitution for judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewardmesh.cli.failure import fail

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.audit.judge import AuditPair
    from rewardmesh.principles import Outcome, Settings


def principles(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", exists=True, dir_okay=False, help="labelled pairs, plain or gzipped")],
    target: Annotated[str, typer.Option(help="host:port of the judge")],
    out: Annotated[Path, typer.Option(help="constitution file; the report lies beside it")] = Path("principles.yaml"),
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="principles to test too, one a line")
    ] = None,
    name: Annotated[str, typer.Option(help="name of the constitution")] = "found",
    version: Annotated[int, typer.Option(min=1, help="version of the constitution")] = 1,
    model: Annotated[str, typer.Option(help="which judge of the service; empty: its default")] = "",
    template: Annotated[str, typer.Option(help="template that shows principles; empty: the judge's default")] = "",
    proposing_template: Annotated[str, typer.Option(help="template that writes a principle")] = "propose-principle",
    proposals: Annotated[int, typer.Option(min=0, help="pairs that the judge proposes principles from; 0: test --candidates alone")] = 60,
    most_pairs: Annotated[int, typer.Option("--pairs", min=8, help="most pairs that are used, drawn with --seed")] = 400,
    most_principles: Annotated[int, typer.Option(min=1, help="longest constitution")] = 5,
    min_net: Annotated[float, typer.Option(min=-1, max=1, help="least votes for the labels less votes against, share of pairs")] = 0.1,
    min_coverage: Annotated[float, typer.Option(min=0, max=1, help="least share of pairs on which a principle votes")] = 0.2,
    min_gain: Annotated[float, typer.Option(min=0, max=1, help="least gain in reconstructed labels for one more principle")] = 0.01,
    seed: Annotated[int, typer.Option(help="of the draw and split of the pairs")] = 0,
    timeout_seconds: Annotated[float, typer.Option(min=0.001, help="longest time for one call")] = 600.0,
) -> None:
    """Propose, test and choose principles that explain labelled pairs: {"prompt", "chosen", "rejected"} or {"prompt", "a", "b", "label"}.

    Writes a constitution that judges can name, with a report. Exit code 1 when no principle helps.
    """
    from rich.console import Console
    from rich.table import Table

    from rewardmesh.audit.errors import AuditError
    from rewardmesh.audit.judge.reading import read_judge_data
    from rewardmesh.client import CallFailed
    from rewardmesh.principles import JudgeChanged, SearchError, Settings, write_report

    if out.suffix != ".yaml":
        fail(f"--out: must end in .yaml, is {out}")
    given = [line.strip() for line in candidates.read_text().splitlines()] if candidates else []
    settings = Settings(
        model=model,
        template=template,
        proposing_template=proposing_template,
        candidates=tuple(line for line in given if line and not line.startswith("#")),
        proposals=proposals,
        pairs=most_pairs,
        most_principles=most_principles,
        min_net=min_net,
        min_coverage=min_coverage,
        min_gain=min_gain,
        seed=seed,
    )
    console = Console()
    try:
        data = read_judge_data(pairs)
        outcome = _search(console, target, data.pairs, settings, timeout_seconds)
        files = write_report(outcome, settings, out, name, version, data.name)
    except (AuditError, SearchError, JudgeChanged, CallFailed) as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}")
    table = Table("principle", "net", "coverage", "verdict")
    for each in outcome.tested:
        verdict = "chosen" if each.id in outcome.constitution else each.refused or "kept"
        table.add_row(each.text, f"{each.votes.net:+.2f}", f"{each.votes.coverage:.0%}", verdict)
    console.print(table)
    console.print(f"held-out labels reconstructed: {outcome.before.value:.1%} without principles, {outcome.after.value:.1%} with them")
    console.print("written: " + ", ".join(map(str, files)), highlight=False, soft_wrap=True)
    if not outcome.constitution:
        fail("no principle makes the judge agree with more labels")


def _search(console: Console, target: str, pairs: tuple[AuditPair, ...], settings: Settings, timeout_s: float) -> Outcome:
    import asyncio

    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from rewardmesh.client import AsyncClient
    from rewardmesh.principles import find_principles

    columns = (TextColumn("{task.description:>10}"), TextColumn("{task.completed} verdicts"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def on_progress(what: str, count: int) -> None:
            if not count:
                progress.console.print(what, markup=False, highlight=False)
                return
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None)
            progress.advance(tasks[what], count)

        async def run() -> Outcome:
            async with AsyncClient(target, timeout_s=timeout_s) as client:
                return await find_principles(client, pairs, settings, on_progress)

        return asyncio.run(run())
