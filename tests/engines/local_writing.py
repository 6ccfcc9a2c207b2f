"""Run by vLLM's own Python: writes with `engine: vllm` what a file of cases asks for. `python local_writing.py MODEL CASES ANSWERS`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.writing import ChoiceGrammar, JsonGrammar, WritingOptions

if __name__ == "__main__":
    model, cases, answers = sys.argv[1:]
    asked = json.loads(Path(cases).read_text())
    config = ModelServerConfig(model=model, engine="vllm", engine_options=asked["engine_options"])
    opened = open_model(config, "causal", "write", path=model, version=1)
    found = []
    for case in asked["cases"]:
        grammar = JsonGrammar(case["json"]) if "json" in case else ChoiceGrammar(tuple(case["words"])) if "words" in case else None
        options = WritingOptions(**case["options"], grammar=grammar)
        texts = opened.write(asked["prompts"], options, row_keys=[str(n) for n in range(len(asked["prompts"]))])
        found.append([[dataclasses.asdict(text) for text in prompt] for prompt in texts])
    Path(answers).write_text(json.dumps(found))
    opened.close()
