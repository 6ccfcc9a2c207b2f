"""The demo's models for commands that need them: built where they are not there, with a progress bar each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from rewardmesh.demo.files import ModelPaths


def models_with_bars(
    console: Console,
    folder: Path,
    seed: int,
    policy: str | None = None,
    reward: str | None = None,
    judge: str | None = None,
    *,
    guide: bool = False,
) -> ModelPaths:
    """Paths of the demo's three models, and with `guide` of the fourth; those that are not given are built, with a bar each."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rewardmesh.demo.build import PARTS, Part, build_metrics, build_models
    from rewardmesh.demo.files import ModelPaths
    from rewardmesh.demo.guide import GuideConfig

    if not guide and policy and reward and judge:
        return ModelPaths(policy, reward, judge, None)
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console) as bars:
        shown: tuple[Part, ...] = (*PARTS, *(("guide",) if guide else ()))
        tasks = {part: bars.add_task(part, total=None, start=False, loss="") for part in shown}

        def on_step(part: Part, step: int, total: int, loss: float) -> None:
            if step == 1:
                bars.start_task(tasks[part])
            bars.update(tasks[part], completed=step, total=total, loss=f"loss {loss:.3f}")

        built = build_models(folder, seed, progress=on_step, guide=GuideConfig() if guide else None)
    for part, metrics in build_metrics(folder, guide=guide).items():
        console.print(f"{part:>14}: " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items()))
    template = None if judge else built.judge_template
    return ModelPaths(policy or built.policy, reward or built.reward, judge or built.judge, template, built.guide)
