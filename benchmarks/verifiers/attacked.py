"""The corpus of attacks against a server: how many got out or passed, and what they did to the server and to others."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.verifiers.attacks import Attack, Host, attacks, attempt, honest, host, left_behind
from rewardmesh.client import AsyncClient

LIMITS = {"seconds": 0.5, "memory_bytes": 2**27, "on_opaque": "fail"}
ATTACK_S = 90.0
HONEST_S = 20.0
"""Far beyond what an honest program takes, far below what an attack might hold a server for."""
NOT_INSTALLED = "is not installed"


async def try_attack(client: AsyncClient, attack: Attack, about: Host) -> dict[str, int | str]:
    """Try it with an honest program in the same call and another one afterwards.

    Returns:
        passed: tries that passed, each an escape or a forgery; absent: tries that got no verdict; honest_lost: honest programs without
        their PASS; left: traces on the host; skipped: why it was not tried, or "".
    """
    found: Counter[str] = Counter()
    skipped = ""
    for number in range(attack.repeat):
        tried, well = await client.verify([attempt(attack, about, number), honest(number)], "code", options=LIMITS, timeout_s=ATTACK_S)
        if tried.absence is not None and NOT_INSTALLED in tried.absence.detail:
            skipped = tried.absence.detail
        else:
            found["passed"] += tried.value == 1
            found["absent"] += tried.value is None
        found["honest_lost"] += well.value != 1
    (after,) = await client.verify([honest()], "code", timeout_s=HONEST_S)
    found["honest_lost"] += after.value != 1
    traces = left_behind(about)
    counted = {name: found[name] for name in ("passed", "absent", "honest_lost")}
    return {**counted, "left": len(traces), "traces": "; ".join(traces), "skipped": skipped}


async def attacked(address: str, kind: str) -> dict[str, Any]:
    """The whole corpus against one kind of sandbox."""
    trials: dict[str, dict[str, int | str]] = {}
    with tempfile.TemporaryDirectory() as folder, host(Path(folder), os.getpid()) as about:
        async with AsyncClient(address, timeout_s=None) as client:
            for attack in attacks():
                if attack.own_kernel and kind == "gvisor":
                    continue
                trials[f"{attack.family}/{attack.name}"] = await try_attack(client, attack, about)
    tried = {name: trial for name, trial in trials.items() if not trial["skipped"]}
    totals = {key: sum(int(trial[key]) for trial in tried.values()) for key in ("passed", "absent", "honest_lost", "left")}
    failed = {name: trial for name, trial in tried.items() if trial["passed"] or trial["absent"] or trial["honest_lost"] or trial["left"]}
    return {"attacks": len(tried), "skipped": len(trials) - len(tried), **totals, "failed": failed}
