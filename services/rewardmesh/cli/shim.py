"""`rewardmesh shim`: OpenRLHF's and vLLM's HTTP protocols in front of a reward service or a gateway."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rewardmesh.cli.failure import USAGE, fail


class OnAbsence(StrEnum):
    """What a call is answered with when one of its scores is absent."""

    FAIL = "fail"
    NAN = "nan"


class LogFormat(StrEnum):
    """How log lines are written."""

    CONSOLE = "console"
    JSON = "json"


def shim(
    reward: Annotated[str, typer.Option(metavar="HOST:PORT", help="reward service to ask")] = "",
    gateway: Annotated[str, typer.Option(metavar="HOST:PORT", help="gateway to ask, instead of a reward service")] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="model of the reward service; its own when left out")] = "",
    program: Annotated[str, typer.Option(metavar="NAME", help="program of the gateway; its only one when left out")] = "",
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0 picks a free one")] = 8000,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Prometheus port; 0 picks a free one; none unless given")
    ] = None,
    on_absence: Annotated[
        OnAbsence,
        typer.Option(help="a call with an absent score: fail answers 503 (422 when asking again cannot help); nan puts NaN in its place"),
    ] = OnAbsence.FAIL,
    timeout_seconds: Annotated[float, typer.Option(min=0.001, help="longest time for one call; OpenRLHF waits for 180 s")] = 150.0,
    max_body_bytes: Annotated[int, typer.Option(min=1024, help="largest request")] = 64 * 2**20,
    drain_seconds: Annotated[float, typer.Option(min=0, help="longest time requests may take after SIGTERM")] = 30.0,
    log_format: Annotated[LogFormat, typer.Option(help="how log lines are written")] = LogFormat.CONSOLE,
) -> None:
    """Answer trainers that speak OpenRLHF's or vLLM's HTTP protocols.

    POST /get_reward is OpenRLHF's remote reward model (--remote_rm_url http://HOST:PORT/get_reward). POST /score and /classify are those
    of vLLM's pooling server. GET /docs describes them. Many requests at once are good: the reward service merges them into batches.

    Example: rewardmesh shim --reward 127.0.0.1:50051 --port 8000
    """
    if bool(reward) == bool(gateway):
        fail("give exactly one of --reward HOST:PORT, --gateway HOST:PORT", USAGE)
    if (model and gateway) or (program and reward):
        fail("--model goes with --reward, --program with --gateway", USAGE)
    from rewardmesh.adapters.http_shims import ShimConfig, run_shim
    from rewardmesh.serving.logs import configure_logging

    configure_logging("shim", log_format.value)
    config = ShimConfig(
        target=reward or gateway,
        behind="reward" if reward else "gateway",
        name=model or program,
        host=host,
        port=port,
        metrics_port=metrics_port,
        on_absence=on_absence.value,
        timeout_seconds=timeout_seconds,
        max_body_bytes=max_body_bytes,
        drain_seconds=drain_seconds,
    )
    try:
        run_shim(config)
    except ValueError as error:  # a target that is no address
        fail(error, USAGE)
    except OSError as error:
        fail(error.strerror or error)
