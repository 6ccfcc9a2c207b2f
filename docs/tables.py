"""Tables of the documentation that come from the code: `python docs/tables.py` writes them, `--check` only says what is out of date.

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

PAGES = Path(__file__).parent
ROOTS = (PAGES.parent / "services", PAGES.parent / "trainer")
_TABLE = re.compile(r"(?<=<!-- table: )(?P<name>[a-z-]+) -->\n.*?(?=<!-- end -->)", re.DOTALL)


def metrics() -> str:
    """Every Prometheus metric that a module of the product defines."""
    rows = []
    for module in _modules_with_metrics():
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, MetricWrapperBase) and value.__class__.__module__.startswith("prometheus_client"):
                family = next(iter(value.describe()))
                name = f"{family.name}_total" if family.type == "counter" else family.name
                # prometheus_client has no public way to ask for label names.
                labels = ", ".join(f"`{label}`" for label in value._labelnames)
                rows.append((f"`{name}`", family.type, labels, family.documentation))
    return _table(("metric", "type", "labels", "meaning"), sorted(set(rows)))


def recipe() -> str:
    """Every field of a recipe."""
    from rewardmesh.trainer.recipe import Recipe

    return _table(("field", "type", "default", "meaning"), list(_fields(Recipe)))


def algorithms() -> str:
    """Every option of every algorithm."""
    from rewardmesh.trainer.algorithms import known_algorithms

    rows = []
    for name in known_algorithms():
        config = importlib.import_module(f"rewardmesh.trainer.algorithms.{name}").Config
        rows += [(f"`{name}`", *row) for row in _fields(config)]
    return _table(("algorithm", "option", "type", "default", "meaning"), rows)


def service_config(kind: str) -> Callable[[], str]:
    """Fields of one kind of service."""

    def table() -> str:
        return _table(("field", "type", "default", "meaning"), list(_fields(_config(kind), without=_shared(kind))))

    return table


def shared_config() -> str:
    """Fields that every server has."""
    from rewardmesh.serving import ServerConfig

    return _table(("field", "type", "default", "meaning"), list(_fields(ServerConfig)))


def model_config() -> str:
    """Fields that every server with a model has."""
    from rewardmesh.engine.config import ModelServerConfig
    from rewardmesh.serving import ServerConfig

    return _table(("field", "type", "default", "meaning"), list(_fields(ModelServerConfig, without=ServerConfig)))


def scoring_config() -> str:
    """Fields that every server has whose answers are kept."""
    from rewardmesh.engine.config import ModelServerConfig, ScoringServerConfig

    return _table(("field", "type", "default", "meaning"), list(_fields(ScoringServerConfig, without=ModelServerConfig)))


def engine_options(options: str) -> Callable[[], str]:
    """What `engine_options` may say for one engine; `options` is module:class."""

    def table() -> str:
        module, _, name = options.partition(":")
        return _table(("option", "type", "default", "meaning"), list(_fields(getattr(importlib.import_module(module), name))))

    return table


TABLES: Mapping[str, Callable[[], str]] = {
    "metrics": metrics,
    "recipe": recipe,
    "algorithms": algorithms,
    "config-all": shared_config,
    "config-models": model_config,
    "config-scoring": scoring_config,
    "engine-vllm": engine_options("rewardmesh.engine.vllm.local:VllmOptions"),
    "engine-vllm-server": engine_options("rewardmesh.engine.vllm.server:VllmServerOptions"),
    "engine-openai": engine_options("rewardmesh.engine.openai.endpoint:OpenAIOptions"),
    "engine-triton": engine_options("rewardmesh.engine.triton_mapping:TritonOptions"),
    **{f"config-{kind}": service_config(kind) for kind in ("reward", "judge", "verifier", "logprob", "generation", "gateway")},
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when a table is out of date")
    check = parser.parse_args().check
    stale: list[Path] = []
    seen: set[str] = set()
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        seen.update(match["name"] for match in _TABLE.finditer(text))
        fresh = _TABLE.sub(lambda match: f"{match['name']} -->\n{TABLES[match['name']]()}", text)
        if fresh != text:
            stale.append(page)
            if not check:
                page.write_text(fresh, encoding="utf-8")
    if missing := sorted(set(TABLES) - seen):
        sys.exit(f"on no page: {', '.join(missing)}")
    if check and stale:
        sys.exit(f"out of date: {', '.join(page.name for page in stale)}; run python docs/tables.py")


def _modules_with_metrics() -> Iterator[str]:
    for root in ROOTS:
        for path in sorted((root / "rewardmesh").rglob("*.py")):
            if re.search(r"^from prometheus_client import .*(Counter|Gauge|Histogram)", path.read_text(encoding="utf-8"), re.MULTILINE):
                yield ".".join(path.relative_to(root).with_suffix("").parts)


def _config(kind: str) -> type[BaseModel]:
    found: type[BaseModel] = importlib.import_module(f"rewardmesh.{kind}").Config
    return found


def _shared(kind: str) -> type[BaseModel]:
    from rewardmesh.engine.config import ModelServerConfig, ScoringServerConfig
    from rewardmesh.serving import ServerConfig

    shared = (ScoringServerConfig, ModelServerConfig, ServerConfig)
    return next(each for each in shared if issubclass(_config(kind), each))


def _fields(model: type[BaseModel], prefix: str = "", without: type[BaseModel] | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Rows of a model's fields, nested models by dotted path; `without`: fields that are the same there are left out."""
    for name, field in model.model_fields.items():
        inherited = without.model_fields.get(name) if without else None
        if inherited is not None and (inherited.default, inherited.annotation) == (field.default, field.annotation):
            continue
        nested = _nested(field.annotation)
        default = _default(field)
        if nested is None:
            yield f"`{prefix}{name}`", f"`{_type(field.annotation)}`", default, field.description or ""
            continue
        yield f"`{prefix}{name}`", "section", default if default == "required" else "", field.description or _summary(nested)
        yield from _fields(nested, f"{prefix}{name}.")


def _nested(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _default(field: Any) -> str:
    if field.default_factory is not None:
        value = field.default_factory()
        return f"`{value}`" if not value else "of the machine"
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "unset"
    value = field.default
    return f'`"{value}"`' if value == "" else f"`{list(value) if isinstance(value, tuple) else value}`"


def _type(annotation: Any) -> str:
    text = str(annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else annotation)
    text = re.sub(r"\b(?:typing|pathlib|collections\.abc)\.", "", text).replace("NoneType", "None")
    if text.startswith("Literal["):
        text = text.removeprefix("Literal[").removesuffix("]").replace("'", "").replace(", ", " or ")
    return text.replace(" | None", "").replace("|", "or")


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").partition("\n")[0]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
