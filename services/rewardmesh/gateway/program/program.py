"""A reward program, read and checked: name, signals, absence rules, the expression of the reward, and a fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from rewardmesh.gateway.program.absence import DROP, Rule, parse_rule
from rewardmesh.gateway.program.leaves import SignalValue
from rewardmesh.gateway.program.node import Node
from rewardmesh.gateway.program.scope import Scope, validate
from rewardmesh.gateway.program.signals import KINDS, Signal, Strict, signal_class
from rewardmesh.gateway.program.source import Path, Source, read_source

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Document(Strict):
    name: str
    signals: dict[str, Any] = Field(min_length=1)
    reward: Any
    on_absence: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A checked program.

    Attributes:
        signals: by name, ascending.
        rules: what to do about each signal's absence.
        reward: the expression; its scale is the reward's.
        text: as written.
        fingerprint: SHA-256 (hex) of its canonical form, stored baselines included; layout and comments do not count.
    """

    name: str
    signals: Mapping[str, Signal]
    rules: Mapping[str, Rule]
    reward: Node
    text: str
    fingerprint: str


def parse_program(text: str, source_name: str = "program", baselines: Mapping[str, float] | None = None) -> Program:
    """Read and check a program.

    Args:
        text: YAML.
        source_name: file name, for messages.
        baselines: stored baselines by `program/signal`; what `centre: baseline` stands for.

    Raises:
        ProgramError: anything that is wrong, as `file:line: path.to.field: what`.
    """
    source = read_source(text, source_name)
    document = validate(_Document, source.data, (), source)
    if not _NAME.fullmatch(document.name):
        raise source.error(("name",), f"{document.name!r} is no name: letters, digits, '_', '.', '-'")
    signals = {name: _signal(name, data, source) for name, data in sorted(document.signals.items())}
    rules = {name: DROP for name in signals}
    for name, data in document.on_absence.items():
        rules[name] = _rule(name, data, signals, source)
    leaves = {name: SignalValue(name, signal.scale, rules[name]) for name, signal in signals.items()}
    stored = {name: (baselines or {})[key] for name in signals if (key := f"{document.name}/{name}") in (baselines or {})}
    reward = Scope(source, signals, leaves, stored).expression(document.reward, ("reward",))
    for name in signals:
        if name not in reward.signals():
            raise source.error(("signals", name), "is not used in reward")
    canonical = {
        "name": document.name,
        "signals": {name: [signal.kind, signal.model_dump()] for name, signal in signals.items()},
        "on_absence": {name: str(rule) for name, rule in rules.items()},
        "reward": reward.canonical(),
    }
    fingerprint = hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return Program(document.name, signals, rules, reward, text, fingerprint)


def _signal(name: str, data: object, source: Source) -> Signal:
    path: Path = ("signals", name)
    if not _NAME.fullmatch(name):
        raise source.error(path, f"{name!r} is no name: letters, digits, '_', '.', '-'")
    kinds = [kind for kind in KINDS if kind in data] if isinstance(data, dict) else []
    if not isinstance(data, dict) or len(kinds) != 1:
        raise source.error(path, f"must be a mapping with exactly one of {', '.join(KINDS)}")
    [kind] = kinds
    try:
        wanted = signal_class(kind, data.get("mode"))
    except ValueError as error:
        raise source.error((*path, "mode"), str(error)) from error
    return validate(wanted, data, path, source)


def _rule(name: str, data: object, signals: Mapping[str, Signal], source: Source) -> Rule:
    path: Path = ("on_absence", name)
    if name not in signals:
        raise source.error(path, f"unknown signal {name!r} (known: {', '.join(signals)})")
    try:
        rule = parse_rule(data)
    except ValueError as error:
        raise source.error(path, str(error)) from error
    scale = signals[name].scale
    if rule.fallback is not None and not scale.min <= rule.fallback <= scale.max:
        raise source.error(path, f"{rule.fallback:g} is outside the signal's scale, {scale.name} [{scale.min:g}, {scale.max:g}]")
    return rule
