"""The same on real input: GSM8K questions, a policy fine-tuned on their worked answers, a reward model from right against wrong answers.

    python -m rewardmesh.demo.gsm8k DATA_DIR runs/gsm8k
    rewardmesh train-policy runs/gsm8k/policy.jsonl runs/gsm8k/policy --steps 300
    rewardmesh train-reward runs/gsm8k/preferences.jsonl runs/gsm8k/reward --steps 150
    rewardmesh train runs/gsm8k/recipe.yaml --mesh runs/gsm8k/mesh.yaml

DATA_DIR holds gsm8k_train.jsonl, gsm8k_test.jsonl ({"question", "answer"}) and gsm8k_model_answers.jsonl ({"question", "answers":
[{"solution", "is_correct"}]}). A small model will not solve GSM8K; this shows the line from end to end on real text.
"""

import argparse
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROGRAM = """\
# The verifier decides; the reward model, which never decides alone, breaks ties; a length bound keeps answers from running on.
name: gsm8k
signals:
  correct: {verifier: math}
  helpful: {reward: helpful}
  format: {verifier: regex, options: {must_match: ["####"]}}
reward:
  sum:
    - {of: correct, weight: 0.7}
    - {of: helpful, shape: {sigmoid: {centre: 0.0}}, weight: 0.2}
    - {of: format, weight: 0.1}
on_absence: {correct: drop, helpful: wait, format: drop}
"""

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def prepare(data: Path, out: Path) -> None:
    """Write training files, program, mesh and recipe; raises OSError when a data file is missing."""
    out.mkdir(parents=True, exist_ok=True)
    worked = [{"prompt": row["question"], "completion": plain(row["answer"])} for row in _rows(data / "gsm8k_train.jsonl")]
    _write(out / "policy.jsonl", worked)
    _write(out / "preferences.jsonl", preferences(_rows(data / "gsm8k_model_answers.jsonl")))
    (out / "program.yaml").write_text(PROGRAM)
    (out / "mesh.yaml").write_text(yaml.safe_dump(_mesh(out), sort_keys=False))
    (out / "recipe.yaml").write_text(yaml.safe_dump(_recipe(data, out), sort_keys=False))


def plain(answer: str) -> str:
    """A worked answer without GSM8K's calculator marks, its result after "####"."""
    return re.sub(r"\nA: (?=[^\n]*$)", "\n#### ", _CALCULATOR.sub("", answer))


def preferences(rows: Iterator[dict[str, Any]]) -> list[dict[str, str]]:
    """Every right answer against every wrong answer to the same question."""
    pairs = []
    for row in rows:
        right = [plain(answer["solution"]) for answer in row["answers"] if answer["is_correct"]]
        wrong = [plain(answer["solution"]) for answer in row["answers"] if not answer["is_correct"]]
        pairs += [{"prompt": row["question"], "chosen": a, "rejected": b} for a, b in itertools.product(right, wrong)]
    return pairs


def _mesh(out: Path) -> dict[str, Any]:
    scorer: dict[str, Any] = {"threads": 1, "batch_invariant": True}
    return {
        "log_dir": str(out / "logs"),
        "services": {
            "verifier": {"kind": "verifier"},
            "helpful": {"kind": "reward", "name": "helpful", "model": str(out / "reward"), **scorer},
            "reference": {"kind": "logprob", "model": str(out / "policy"), **scorer},
            "generation": {"kind": "generation", "model": str(out / "policy"), "threads": 2},
            "gateway": {
                "kind": "gateway",
                "programs": [str(out / "program.yaml")],
                "backends": {"verifier": "${services.verifier.address}", "reward": "${services.helpful.address}"},
            },
        },
    }


def _recipe(data: Path, out: Path) -> dict[str, Any]:
    services = {"gateway": "gateway", "generation": "generation", "logprob": "reference", "verifier": "verifier"}
    fields = {"prompt_field": "question", "reference_field": "answer"}
    return {
        "run_dir": str(out / "run"),
        "policy": str(out / "policy"),
        "prompts": {"path": str(data / "gsm8k_train.jsonl"), **fields},
        "services": {role: f"${{services.{name}.address}}" for role, name in services.items()},
        "algorithm": {"name": "online_dpo", "beta": 0.1, "reward_temperature": 0.3},
        "sampling": {"prompts_per_step": 8, "completions": 4, "max_tokens": 160},
        "optimiser": {"learning_rate": 1e-4, "warmup_steps": 3},
        "evaluation": {"prompts": {"path": str(data / "gsm8k_test.jsonl"), **fields}, "n": 100},
        "steps": 30,
        "threads": 2,
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prepare the GSM8K run: training files, program, mesh and recipe.")
    parser.add_argument("data", type=Path, help="folder with the GSM8K files")
    parser.add_argument("out", type=Path, help="folder to write into")
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.out)
    print(f"wrote {arguments.out}: policy.jsonl, preferences.jsonl, program.yaml, mesh.yaml, recipe.yaml")
