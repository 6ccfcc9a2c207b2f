"""`rewardmesh audit judge` and `rewardmesh audit verifier`: whether they can be trusted with the reward; a report and an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardmesh.cli.audit_running import OnProgress, check_target, failures, one_of, read_thresholds, require_serving, run
from rewardmesh.cli.failure import USAGE, fail

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.audit import Audit, JudgeData, JudgeSettings, VerifierData

audit_app = typer.Typer(help="Measure a judge or a verifier against thresholds.", no_args_is_help=True)


class Edits(StrEnum):
    """Sets of edits for metamorphic tests."""

    AUTO = "auto"
    MATH = "math"
    NONE = "none"


DataOption = Annotated[
    Path | None, typer.Option("--data", exists=True, dir_okay=False, help="JSONL, plain or .gz; layouts: docs/audits.md")
]
GeneratedOption = Annotated[int, typer.Option(min=0, metavar="N", help="N generated arithmetic problems instead of --data")]
OutOption = Annotated[Path, typer.Option("--out", file_okay=False, help="folder for report.md, audit.json and plots")]
ThresholdOption = Annotated[
    list[str] | None, typer.Option("--threshold", metavar="NAME=VALUE", help="limit of a figure instead of its default; repeatable")
]
ThresholdsOption = Annotated[
    Path | None, typer.Option("--thresholds", exists=True, dir_okay=False, help="YAML that maps names of figures to thresholds")
]
SeedOption = Annotated[int, typer.Option(help="of the choice of items, sampled votes and bootstrap intervals")]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="longest time for one call")]


@audit_app.command("judge")
def audit_judge_command(
    out: OutOption,
    target: Annotated[str, typer.Option(help="host:port of a judge or a panel")] = "",
    model: Annotated[str, typer.Option(metavar="DIR", help="start a judge with this model for the run, instead of --target")] = "",
    template: Annotated[str, typer.Option(help="name of the compare template; with --model it may be a file. Default: the service's")] = "",
    name: Annotated[str, typer.Option(help="name of the model at the target; default: its only one")] = "",
    version: Annotated[int, typer.Option(min=0, help="version to audit; 0: the active one")] = 0,
    data: DataOption = None,
    generated: GeneratedOption = 0,
    limit: Annotated[int, typer.Option(min=1, help="most pairs; probes that ask about each several times take fewer")] = 200,
    probe: Annotated[
        list[str] | None, typer.Option("--probe", metavar="NAME", help="run only this probe: position, length, injection, ...; repeatable")
    ] = None,
    votes: Annotated[int, typer.Option(min=0, help="sampled votes an order; 0 reads label probabilities")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="of sampled votes; 0: the service's default")] = 0.0,
    repeats: Annotated[int, typer.Option(min=2, help="how often the repetition probe asks the same")] = 3,
    own_name: Annotated[str, typer.Option(help="the judge's own name among the models of the data, for self-preference")] = "",
    with_references: Annotated[bool, typer.Option("--with-references", help="show the judge the references of the data")] = False,
    contrast_template: Annotated[str, typer.Option(help="template that asks for the worse answer, for the prompt contrast")] = "",
    paraphrases: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help='JSONL of {"original", "paraphrase"}: whole prompts or answers')
    ] = None,
    injections: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="YAML of injections instead of the built-in corpus")
    ] = None,
    threshold: ThresholdOption = None,
    thresholds: ThresholdsOption = None,
    audits_dir: Annotated[
        Path | None, typer.Option(file_okay=False, help="folder of gate files: FINGERPRINT.json is written there, passed or not")
    ] = None,
    activate: Annotated[int, typer.Option(min=0, metavar="VERSION", help="audit this version and activate it if it passes")] = 0,
    seed: SeedOption = 0,
    timeout_seconds: TimeoutOption = 600.0,
) -> None:
    """Audit a judge: position and length bias, self-preference, repetition, transitivity, paraphrase, injection, calibration.

    Exit code 1 when a threshold is not met, 130 when interrupted; the report then holds the probes that were finished.
    """
    from rich.console import Console

    one_of({"--target": target, "--model": model}, "where the judge is, or what to start")
    one_of({"--data": data, "--generated": generated}, "what to judge")
    if activate and (model or (version and version != activate)):
        fail("--activate VERSION: needs --target, and no other --version", USAGE)
    if probe and (activate or audits_dir):
        fail("--probe: a gate takes a whole audit; leave out --probe, or --audits-dir and --activate", USAGE)
    if target:
        check_target(target)
    with failures():
        from rewardmesh.audit import JudgeSettings
        from rewardmesh.audit.figures import Thresholds
        from rewardmesh.audit.judge import chosen, read_corpus
        from rewardmesh.audit.judge.audit import specs
        from rewardmesh.audit.judge.reading import read_judge_data, read_paraphrases
        from rewardmesh.audit.report import check_folder, write_gate
        from rewardmesh.cli.local_template import template_name
        from rewardmesh.v1.common_pb2 import ModelRef

        corpus = read_corpus(injections) if injections else None
        settings = JudgeSettings(
            model=ModelRef(name=name, version=activate or version) if name or activate or version else None,
            template=template_name(template) if model and template else template,
            votes=votes,
            temperature=temperature,
            seed=seed,
            pairs=limit,
            repeats=repeats,
            own_name=own_name,
            with_references=with_references,
            contrast_template=contrast_template,
            paraphrases=read_paraphrases(paraphrases) if paraphrases else (),
            injections=None if corpus is None else tuple((each.kind, each.text) for each in corpus.injections),
            probes=tuple(probe or ()),
            thresholds=read_thresholds(thresholds, threshold or []),
        )
        Thresholds(specs(chosen(settings.probes)), settings.thresholds)
        console = Console()
        items = read_judge_data(data) if data else _generated_pairs(generated, seed)
        for folder in filter(None, (out, audits_dir)):
            check_folder(folder)
        with _judge(target, model, template) as address:
            audit = _audit_judge(console, address, items, settings, out, timeout_seconds)
            if audits_dir:
                console.print(f"gate file: {write_gate(audit, audits_dir)}", highlight=False, markup=False, soft_wrap=True)
            if audit.passed and activate:
                _activate(address, name, activate, timeout_seconds)
                console.print(f"version {activate} is active")
    if not audit.passed:
        raise typer.Exit(1)


@audit_app.command("verifier")
def audit_verifier_command(
    verifier: Annotated[str, typer.Argument(metavar="NAME", help="name of the verifier")],
    out: OutOption,
    target: Annotated[str, typer.Option(help="host:port of a verifier service; default: one is started for the run")] = "",
    data: DataOption = None,
    generated: GeneratedOption = 0,
    options: Annotated[str, typer.Option(metavar="JSON", help="options of the verifier")] = "{}",
    limit: Annotated[int, typer.Option(min=0, help="most answers; 0: all")] = 0,
    edits: Annotated[Edits, typer.Option(help="edits of right answers; auto: math for the verifier of that name")] = Edits.AUTO,
    threshold: ThresholdOption = None,
    thresholds: ThresholdsOption = None,
    seed: SeedOption = 0,
    timeout_seconds: TimeoutOption = 600.0,
) -> None:
    """Audit a verifier against labelled answers: agreement, metamorphic tests, determinism, speed.

    Exit code 1 when a threshold is not met, 130 when interrupted; the report then holds the checks that were finished.
    """
    from rich.console import Console

    one_of({"--data": data, "--generated": generated}, "what to check")
    if target:
        check_target(target)
    with failures():
        from rewardmesh.audit import VerifierSettings, audit_verifier
        from rewardmesh.audit.figures import Thresholds
        from rewardmesh.audit.findings import Section
        from rewardmesh.audit.report import check_folder
        from rewardmesh.audit.verifier import assembled, read_verifier_data
        from rewardmesh.audit.verifier.audit import specs
        from rewardmesh.client import AsyncClient

        settings = VerifierSettings(
            options=_options(options), edits=edits.value, seed=seed, thresholds=read_thresholds(thresholds, threshold or [])
        )
        Thresholds(specs(), settings.thresholds)
        items = read_verifier_data(data, limit) if data else _generated_answers(generated, seed)
        console = Console()
        finished: list[Section] = []
        check_folder(out)
        with _verifier(target) as address:

            async def ask(on_progress: OnProgress) -> Audit:
                async with AsyncClient(address, timeout_s=timeout_seconds) as client:
                    await require_serving(client)
                    return await audit_verifier(client, verifier, items, settings, on_progress=on_progress, on_section=finished.append)

            audit = run(console, out, ask, lambda: assembled(finished, verifier, items, settings, complete=False))
    if not audit.passed:
        raise typer.Exit(1)


def _audit_judge(console: Console, address: str, items: JudgeData, settings: JudgeSettings, out: Path, timeout_s: float) -> Audit:
    from rewardmesh.audit import audit_judge
    from rewardmesh.audit.findings import Section
    from rewardmesh.audit.judge import assembled
    from rewardmesh.client import AsyncClient
    from rewardmesh.v1.common_pb2 import ModelRef

    finished: list[tuple[Section, ModelRef | None]] = []

    def partial() -> Audit:
        judge = finished[-1][1] if finished else None
        return assembled([section for section, _ in finished], judge, items, settings, complete=False)

    async def ask(on_progress: OnProgress) -> Audit:
        async with AsyncClient(address, timeout_s=timeout_s) as client:
            await require_serving(client)
            return await audit_judge(client, items, settings, on_progress=on_progress, on_section=lambda *section: finished.append(section))

    return run(console, out, ask, partial)


def _activate(address: str, name: str, version: int, timeout_s: float) -> None:
    """Switch to the audited version, unless another than the one active now became active meanwhile."""
    from rewardmesh.client import Client

    with Client(address, timeout_s=timeout_s) as client:
        active = client.get_model(name).active.version
        if active != version:
            client.activate_version(version, name=name, expected_current=active)


@contextmanager
def _judge(target: str, model: str, template: str) -> Iterator[str]:
    if target:
        yield target
        return
    from rewardmesh.cli.local_judge import local_judge
    from rewardmesh.serving.logs import configure_logging

    configure_logging("audit", level="warning")
    with local_judge(model, template) as address:
        yield address


@contextmanager
def _verifier(target: str) -> Iterator[str]:
    if target:
        yield target
        return
    from rewardmesh.cli.local_verifier import local_verifier
    from rewardmesh.serving.logs import configure_logging

    configure_logging("audit", level="warning")
    with local_verifier() as address:
        yield address


def _generated_pairs(n: int, seed: int) -> JudgeData:
    from rewardmesh.cli.audit_problems import judge_problems

    return judge_problems(n, seed)


def _generated_answers(n: int, seed: int) -> VerifierData:
    from rewardmesh.cli.audit_problems import verifier_problems

    return verifier_problems(n, seed)


def _options(text: str) -> dict[str, Any]:
    from google.protobuf.message import DecodeError
    from google.protobuf.struct_pb2 import Struct

    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"--options: is no JSON: {error}", USAGE)
    if not isinstance(found, dict):
        fail("--options: must be a JSON object", USAGE)
    try:
        given = Struct()
        given.update(found)
        Struct.FromString(given.SerializeToString())
    except (RecursionError, DecodeError):
        fail("--options: is nested too deeply to be sent", USAGE)
    return found
