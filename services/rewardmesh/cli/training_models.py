"""`rewardmesh train-policy` fine-tunes a policy on worked answers, `rewardmesh train-reward` trains a reward model on preference pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rewardmesh.cli.failure import USAGE, fail

if TYPE_CHECKING:
    from rewardmesh.trainer.fitting import OnFit

DataArgument = Annotated[Path, typer.Argument(metavar="DATA.JSONL", exists=True, dir_okay=False)]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT_DIR", help="where the model directory is written")]
InitOption = Annotated[str | None, typer.Option("--init", help="model directory or hub name to start from; else random weights")]
StepsOption = Annotated[int, typer.Option(min=1, help="optimiser steps")]
BatchOption = Annotated[int, typer.Option(min=1, help="examples a step")]
RateOption = Annotated[float | None, typer.Option(help="greatest learning rate; default 2e-3 from random weights, 1e-5 else")]
TokensOption = Annotated[int, typer.Option(min=2, help="longer examples are left out, and counted")]
SeedOption = Annotated[int, typer.Option()]
VocabularyOption = Annotated[int, typer.Option(min=300, help="tokens of the tokenizer trained for random weights")]
HiddenOption = Annotated[int, typer.Option(min=8, help="width of a model with random weights")]
LayersOption = Annotated[int, typer.Option(min=1, help="layers of a model with random weights")]


def train_policy(
    data: DataArgument,
    out: OutArgument,
    init: InitOption = None,
    steps: StepsOption = 500,
    batch_size: BatchOption = 16,
    learning_rate: RateOption = None,
    max_tokens: TokensOption = 512,
    seed: SeedOption = 0,
    vocabulary: VocabularyOption = 2048,
    hidden: HiddenOption = 256,
    layers: LayersOption = 4,
) -> None:
    """Fine-tune a policy on {"prompt", "completion"} lines."""
    with _failures():
        from rewardmesh.engine.loading import write_version
        from rewardmesh.trainer.sft import SFTConfig, finetune, read_sft_file

        model, tokenizer = _start("causal", init, data, ("completion",), seed, vocabulary, hidden, layers, max_tokens)
        config = SFTConfig(**_fit_options(init, steps, batch_size, learning_rate, seed), max_tokens=max_tokens)
        with _bar("policy") as on_step:
            result = finetune(model, read_sft_file(data, tokenizer), config, on_step)
        write_version(out, model, tokenizer)
        typer.echo(f"loss {result.loss:.4f} nats a token over {result.examples} examples, {result.left_out} too long")
        typer.echo(out)


def train_reward(
    data: DataArgument,
    out: OutArgument,
    init: InitOption = None,
    steps: StepsOption = 500,
    batch_size: BatchOption = 16,
    learning_rate: RateOption = None,
    max_tokens: TokensOption = 512,
    seed: SeedOption = 0,
    vocabulary: VocabularyOption = 2048,
    hidden: HiddenOption = 256,
    layers: LayersOption = 4,
) -> None:
    """Train a reward model on {"prompt", "chosen", "rejected"} lines (Bradley-Terry)."""
    with _failures():
        from rewardmesh.engine.loading import write_version
        from rewardmesh.trainer.reward_model import RewardModelConfig, read_preference_file, train_reward_model

        fields = ("chosen", "rejected")
        model, tokenizer = _start("classification", init, data, fields, seed, vocabulary, hidden, layers, max_tokens)
        config = RewardModelConfig(**_fit_options(init, steps, batch_size, learning_rate, seed), max_tokens=max_tokens)
        with _bar("reward model") as on_step:
            result = train_reward_model(model, read_preference_file(data, tokenizer), config, on_step)
        write_version(out, model, tokenizer)
        typer.echo(f"loss {result.loss:.4f} over {result.pairs} pairs, {result.left_out} too long")
        typer.echo(f"held-out pairs in the right order: {result.accuracy:.1%}")
        typer.echo(out)


def _start(
    kind: Literal["causal", "classification"],
    init: str | None,
    data: Path,
    fields: tuple[str, ...],
    seed: int,
    vocabulary: int,
    hidden: int,
    layers: int,
    context: int,
) -> tuple[Any, Any]:
    """The model to train: read from `init`, or new with a tokenizer trained on the data."""
    if init:
        from rewardmesh.engine.loading import read_model

        return read_model(init, kind)
    from rewardmesh.trainer.examples import read_examples
    from rewardmesh.trainer.scratch import Shape, new_model, train_tokenizer

    rows = read_examples(data, fields)
    texts = [text for row in rows for text in (*(content for _, content in row["prompt"]), *(row[field] for field in fields))]
    tokenizer = train_tokenizer(texts, vocabulary)
    shape = Shape(hidden=hidden, layers=layers, intermediate=3 * hidden, heads=max(hidden // 64, 1), context=context)
    return new_model(kind, tokenizer, shape, seed), tokenizer


def _fit_options(init: str | None, steps: int, batch_size: int, learning_rate: float | None, seed: int) -> dict[str, Any]:
    rate = learning_rate or (1e-5 if init else 2e-3)
    return {"steps": steps, "batch_size": batch_size, "learning_rate": rate, "seed": seed, "optimiser": "adamw" if init else "muon"}


@contextmanager
def _bar(name: str) -> Iterator[OnFit]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(TextColumn("{task.description}"), *columns) as bars:
        task = bars.add_task(name, total=None, loss="")
        update: Callable[..., None] = bars.update

        def on_step(step: int, steps: int, loss: float) -> None:
            update(task, completed=step, total=steps, loss=f"loss {loss:.3f}")

        yield on_step


@contextmanager
def _failures() -> Iterator[None]:
    """What a person can mend ends the command with one line."""
    from rewardmesh.serving.config import ConfigError

    try:
        yield
    except ConfigError as error:
        fail(error, USAGE)
    except KeyboardInterrupt:
        fail("interrupted; nothing was written", 130)
    except (OSError, RuntimeError) as error:
        fail(error)
    except Exception as error:
        # LoadError and TrainingFailed live in modules that load torch; importing them here would slow every --help.
        if type(error).__name__ not in {"LoadError", "TrainingFailed"}:
            raise
        fail(error)
