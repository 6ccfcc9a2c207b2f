"""Checks samples in the server's own process: for verifiers that take linear time on any text, where a worker costs more than a check."""

from __future__ import annotations

from dataclasses import replace

from rewardmesh.serving.logs import get_logger
from rewardmesh.verifier.registry import Options, Verifier
from rewardmesh.verifier.verdicts import NoVerdict, Reason, SampleFields, Verdict, line_of, reportable

log = get_logger(__name__)

INLINE_CHARACTERS = 2**16
"""Code points of completion and references beyond which a sample goes to a worker: the event loop is never held for long by one."""
INLINE_REFERENCES = 64
"""References beyond which it does too: a verifier may read the completion once for each."""
SLICE_ITEMS = 512
SLICE_S = 0.005
"""How long the event loop may be held by checks, seconds; one check more at most."""


def runs_inline(verifier: Verifier, sample: SampleFields, options: Options) -> bool:
    """Whether the sample is checked here."""
    inline, references = verifier.inline, sample.references
    if not isinstance(inline, bool):
        inline = inline(sample, options)
    return inline and len(references) <= INLINE_REFERENCES and len(sample.completion) + sum(map(len, references)) <= INLINE_CHARACTERS


def check(verifier: Verifier, options: Options, sample: SampleFields) -> Verdict | NoVerdict:
    """Check one sample; an exception is that sample's INFRASTRUCTURE, as in a worker."""
    try:
        result = verifier.verify(sample, options)
    except Exception as error:
        detail = reportable(f"verifier {verifier.name} raised {type(error).__name__}: {str(error)[:200]}")
        log.exception("verifier failed", detail=detail)
        return NoVerdict(Reason.INFRASTRUCTURE, detail)
    if isinstance(result, NoVerdict):
        return replace(result, detail=reportable(result.detail))
    evidence, extracted = reportable(result.evidence), reportable(result.extracted_answer)
    if result.span is None and evidence is result.evidence and extracted is result.extracted_answer:
        return result
    return replace(result, evidence=evidence, extracted_answer=extracted, line=line_of(result, sample.completion))
