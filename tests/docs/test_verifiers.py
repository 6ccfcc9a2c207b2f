"""Every example of the page on verifiers gives what the page says."""

import json

import pytest

from doc_blocks import ROOT, Block, blocks
from rewardmesh.verifier.registry import discover
from rewardmesh.verifier.verdicts import More, SampleFields, Verdict

PAGE = ROOT / "docs" / "verifiers.md"


@pytest.mark.parametrize("block", blocks("json", (PAGE,)), ids=str)
def test_examples_give_what_the_page_says(block: Block) -> None:
    example = json.loads(block.text)
    verifier, sample = discover()[example["verifier"]], example["sample"]
    fields = SampleFields(sample["completion"], tuple(sample.get("references", ())), more=More(tuple(sample.get("notes", ()))))
    result = verifier.verify(fields, verifier.options.model_validate(example["options"]))
    assert isinstance(result, Verdict), result
    found = {"status": result.status.value, "span": result.span and list(result.span), "steps": [list(step) for step in result.steps]}
    found |= {name: getattr(result, name) for name in ("score", "evidence", "extracted_answer", "category")}
    assert {name: found[name] for name in example["outcome"]} == example["outcome"]


def test_every_verifier_has_a_section() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in discover():
        assert f"\n## {name}\n" in text or f"`{name}`" in text, name
