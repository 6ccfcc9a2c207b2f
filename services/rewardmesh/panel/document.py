"""A panel's file: its members, and a rule for each method.

    name: jury
    members:
      small: {address: "127.0.0.1:50061"}
      large: {address: "127.0.0.1:50062", template: careful, weight: 2}
    default: {rule: jury, vote: mean}     # of every method it can answer
    critique: {rule: critics}             # of one method; compare, rank, grade likewise

A method that has neither a rule of its own nor a default that can answer it is refused when it is called; a rule that is given to a method
it cannot answer is a mistake in the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from rewardmesh.client.balancing.targets import parse_target
from rewardmesh.panel.ledger import digest_of
from rewardmesh.panel.rules import METHODS, RULES, Method, Rule
from rewardmesh.panel.spec import MemberSpec, Strict
from rewardmesh.serving.config import ConfigError, describe_errors, read_yaml


@dataclass(frozen=True)
class Panel:
    """A panel, checked.

    Attributes:
        rules: by method; one that cannot be answered is missing.
        digest: hash (hex) of all in the file that verdicts depend on: not of names of panels and addresses.
        mark: hash (hex) of what tells this panel from others, the same for its replicas.
    """

    name: str
    source: str
    members: Mapping[str, MemberSpec]
    rules: Mapping[Method, Rule]
    digest: str
    mark: str


class _Document(Strict):
    name: str = Field(min_length=1)
    members: dict[Annotated[str, Field(min_length=1)], MemberSpec] = Field(min_length=1)
    default: dict[str, Any] | None = None
    compare: dict[str, Any] | None = None
    rank: dict[str, Any] | None = None
    grade: dict[str, Any] | None = None
    critique: dict[str, Any] | None = None


def load_panel(path: Path, addresses: Mapping[str, str]) -> Panel:
    """Read and check a panel's file.

    Args:
        addresses: by member; stand in for the file's.

    Raises:
        ConfigError: what is wrong, with file and field, and what would help.
    """
    raw = read_yaml(path)
    try:
        document = _Document.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, str(path), _Document)) from error
    if unknown := sorted(set(addresses) - set(document.members)):
        raise ConfigError(f"addresses.{unknown[0]}: {path} has no such member; members are {', '.join(document.members)}")
    members = {name: spec.model_copy(update={"address": addresses.get(name, spec.address)}) for name, spec in document.members.items()}
    for name, spec in members.items():
        if not spec.address:
            raise ConfigError(
                f"{path}: members.{name}.address: is missing; set it here, or as addresses: {{{name}: host:port}} of the server"
            )
        try:
            parse_target(spec.address)
        except ValueError as error:
            raise ConfigError(f"{path}: members.{name}.address: {error}") from error
    rules = _rules(document, str(path))
    content = {
        "members": {name: spec.model_dump(mode="json", exclude={"address", "timeout"}) for name, spec in members.items()},
        "rules": {method: rule.model_dump(mode="json") for method, rule in rules.items()},
    }
    digest = digest_of(content)
    mark = digest_of([document.name, digest, {name: spec.address for name, spec in members.items()}])
    return Panel(document.name, str(path), members, rules, digest, mark)


def _rules(document: _Document, source: str) -> dict[Method, Rule]:
    members = list(document.members)
    if document.default is None and all(getattr(document, method) is None for method in METHODS):
        raise ConfigError(f"{source}: default: is missing; name a rule: default: {{rule: jury}}, or one of a single method")
    default = None if document.default is None else _rule(document.default, f"{source}: default", members)
    found: dict[Method, Rule] = {}
    for method in METHODS:
        given = getattr(document, method)
        where = f"{source}: {method}"
        rule = default if given is None else _rule(given, where, members)
        if rule is None:
            continue
        problem = _objection(rule, method, members)
        if problem is None:
            found[method] = rule
        elif given is not None:
            raise ConfigError(f"{where}.{problem}")
    if default is not None and not any(rule is default for rule in found.values()):
        problems = [
            problem for method in METHODS if getattr(document, method) is None and (problem := _objection(default, method, members))
        ]
        raise ConfigError(f"{source}: default.{problems[0] if problems else 'rule: every method has a rule of its own; leave default out'}")
    return found


def _rule(given: Mapping[str, Any], where: str, members: list[str]) -> Rule:
    name = given.get("rule")
    if not isinstance(name, str) or name not in RULES:
        near = difflib.get_close_matches(str(name), list(RULES), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        said = "is missing" if name is None else f"{name!r} is unknown"
        raise ConfigError(f"{where}.rule: {said}; one of {', '.join(RULES)}{hint}")
    try:
        rule = RULES[name].model_validate(given)
    except ValidationError as error:
        lines = describe_errors(error, "", RULES[name]).splitlines()
        raise ConfigError("\n".join(f"{where}.{line.removeprefix(': ').removeprefix('document: ')}" for line in lines)) from error
    for field, seated in rule.seats(members).items():
        for member in seated:
            if member not in members:
                raise ConfigError(f"{where}.{field}: {member!r} is no member of this panel; members are {', '.join(members)}")
        if field == "members" and len(set(seated)) < len(seated):
            raise ConfigError(f"{where}.{field}: names a member twice")
    return rule


def _objection(rule: Rule, method: Method, members: list[str]) -> str | None:
    if method not in rule.methods:
        able = [name for name, known in RULES.items() if method in known.methods]
        return f"rule: {rule.rule!r} cannot answer {method}; one of {', '.join(able)}"
    return rule.objection(method, rule.seats(members))
