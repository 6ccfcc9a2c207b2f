"""Tables of the documentation that come from the code: `python docs/tables.py` writes them, `--check` only says what is out of date.

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import yaml
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

PAGES = Path(__file__).parent
RECIPES = sorted((PAGES.parent / "recipes").glob("*.yaml"))
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
    """What each algorithm's own options are, beside those of its family."""
    from rewardmesh.trainer.algorithms import algorithm_config, known_algorithms

    rows = []
    for name in known_algorithms():
        config = algorithm_config(name)
        family = _family(config)
        options = [f"{option} = {default}: {meaning}" for option, _, default, meaning in _fields(config, without=family)]
        rows.append((f"`{name}`", _FAMILIES.get(family.__name__, ""), "<br>".join(options)))
    return _table(("algorithm", "family", "its own options and defaults"), rows)


def families() -> str:
    """Options that whole families of algorithms share."""
    from rewardmesh.trainer.algorithms import algorithm_config, known_algorithms

    found = {family for name in known_algorithms() for family in _family(algorithm_config(name)).__mro__ if family.__name__ in _FAMILIES}
    rows = []
    for family in sorted(found, key=lambda each: list(_FAMILIES).index(each.__name__)):
        beneath = next((each for each in family.__mro__[1:] if each in found), None)
        rows += [(_FAMILIES[family.__name__], *row) for row in _fields(family, without=beneath)]
    return _table(("family", "option", "type", "default", "meaning"), rows)


_FAMILIES = {
    "AlgorithmConfig": "all",
    "PreferenceConfig": "pairs",
    "ReferenceFreeConfig": "pairs, without a reference",
    "SequenceConfig": "completions",
    "RewardConfig": "policy gradient",
    "PPOConfig": "`ppo`",
    "DenseConfig": "`ppo` with dense rewards",
    "PolicyGradientConfig": "critic-free policy gradient",
    "LikelihoodConfig": "likelihood",
}


def _family(config: type[BaseModel]) -> type[BaseModel]:
    """The nearest configuration that others share too."""
    shared = config.__name__ in _FAMILIES and config.__name__ != "PPOConfig"
    return next(each for each in config.__mro__[0 if shared else 1 :] if each.__name__ in _FAMILIES)


def samplers() -> str:
    """Every option of every sampler."""
    from rewardmesh.trainer.samplers import known_samplers, sampler_config

    rows = []
    for name in known_samplers():
        purpose = (importlib.import_module(f"rewardmesh.trainer.samplers.{name}").__doc__ or "").partition("\n")[0]
        options = list(_fields(sampler_config(name)))
        rows.append((f"`{name}`", purpose, "<br>".join(f"{field} = {default}: {meaning}" for field, _, default, meaning in options)))
    return _table(("sampler", "what it does", "options"), rows)


def recipes() -> str:
    """What each recipe of the tree is for."""
    rows = []
    for path in RECIPES:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        about = document["about"]
        rows.append((f"[`{path.stem}`](../recipes/{path.name})", *(about[key] for key in ("title", "paper", "changes", "use", "needs"))))
    return _table(("recipe", "method", "paper", "what it changes", "when to use it", "what it needs from the mesh"), rows)


def recipe_gains() -> str:
    """What each recipe gained in the newest run of `make bench-recipes`."""
    rows = []
    for row in json.loads((PAGES.parent / "benchmarks" / "results" / "recipes.json").read_text(encoding="utf-8"))["recipes"]:
        keys = ("reward_before", "reward_after", "gains")
        spread = [f"{statistics.fmean(row[key]):.3f} ± {statistics.pstdev(row[key]):.3f}" for key in keys]
        right = [f"{100 * statistics.fmean(row[key]):.1f} %" for key in ("right_before", "right_after")]
        rows.append((f"`{row['recipe']}`", str(len(row["seeds"])), *spread, f"{min(row['gains']):+.3f}", *right))
    return _table(("recipe", "seeds", "reward before", "after", "gain", "worst seed", "right before", "after"), rows)


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


def panel_members() -> str:
    """What a panel's file says of a member."""
    from rewardmesh.panel.spec import MemberSpec

    return _table(("field", "type", "default", "meaning"), list(_fields(MemberSpec)))


def panel_rules() -> str:
    """Every option of every rule of a panel, and the methods it answers."""
    from rewardmesh.panel.rules import RULES

    rows = []
    for name, rule in RULES.items():
        options = [row for row in _fields(rule) if row[0] != "`rule`"]
        listed = [f"{field}{f' = {default}' if default else ''}: {meaning}" for field, _, default, meaning in options]
        rows.append((f"`{name}`", ", ".join(rule.methods), "<br>".join(listed)))
    return _table(("rule", "methods", "options and defaults"), rows)


def verifier_options(name: str) -> Callable[[], str]:
    """Options of one verifier."""

    def table() -> str:
        from rewardmesh.verifier.registry import LimitedOptions, discover

        return _table(("option", "type", "default", "meaning"), list(_fields(discover()[name].options, without=LimitedOptions)))

    return table


def constraints() -> str:
    """Every constraint of the rules verifier."""
    from rewardmesh.verifier.rules import CONSTRAINTS, Constraint

    rows = []
    for name, kind in CONSTRAINTS.items():
        arguments = [
            f"{field}{'' if default == 'required' else f' = {default}'}" for field, _, default, _ in _fields(kind, without=Constraint)
        ]
        rows.append((f"`{name}`", "<br>".join(argument for argument in arguments if not argument.startswith("`id`")), _summary(kind)))
    return _table(("id", "arguments", "kept when"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "panel-members": panel_members,
    "panel-rules": panel_rules,
    **{f"verifier-{name}": verifier_options(name) for name in ("groundedness", "regex", "rules", "trajectory")},
    "constraints": constraints,
    "metrics": metrics,
    "recipe": recipe,
    "algorithms": algorithms,
    "families": families,
    "samplers": samplers,
    "recipes": recipes,
    "recipe-gains": recipe_gains,
    "config-all": shared_config,
    "config-models": model_config,
    "config-scoring": scoring_config,
    "engine-vllm": engine_options("rewardmesh.engine.vllm.local:VllmOptions"),
    "engine-vllm-server": engine_options("rewardmesh.engine.vllm.server:VllmServerOptions"),
    "engine-openai": engine_options("rewardmesh.engine.openai.endpoint:OpenAIOptions"),
    "engine-triton": engine_options("rewardmesh.engine.triton_mapping:TritonOptions"),
    **{f"config-{kind}": service_config(kind) for kind in ("reward", "judge", "panel", "verifier", "logprob", "generation", "gateway")},
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
    annotation = _bare(annotation)
    text = str(annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else annotation)
    text = re.sub(r"\b(?:typing|pathlib|collections\.abc)\.", "", text).replace("NoneType", "None")
    if text.startswith("Literal["):
        text = text.removeprefix("Literal[").removesuffix("]").replace("'", "").replace(", ", " or ")
    return text.replace(" | None", "").replace("|", "or")


def _bare(annotation: Any) -> Any:
    """A type without what validates it; of many types together, what they have in common."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bare(arguments[0])
    if origin in {tuple, dict, list}:
        return origin[tuple(_bare(argument) for argument in arguments)]
    if origin is UnionType and len(arguments) > _MOST_TYPES:
        return dict
    return annotation


_MOST_TYPES = 6


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").partition("\n")[0]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
