"""Points that several critics make about one answer, merged by the part of the answer that they are about. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rewardmesh.v1 import common_pb2 as pb


def merge_points(
    points: Mapping[str, Sequence[pb.Span]], weights: Mapping[str, float], *, min_votes: float, overlap: float
) -> list[pb.Span]:
    """One span for all that overlap, in the order of the text; those made by less than `min_votes` of weight are dropped.

    A merged span has the median of the starts and of the ends, the mean value by weight, the most frequent label, and every critic's
    comment under its name. A critic that makes a point twice has one vote.

    Args:
        points: spans by critic.
        overlap: share in (0, 1] of the shorter span that two have to share, to be about the same.
    """
    listed = [(name, span) for name, spans in points.items() for span in spans]
    merged = []
    for cluster in _clusters([span for _, span in listed], overlap):
        members = [listed[index] for index in cluster]
        votes = sum(weights[name] for name in {name for name, _ in members})
        if votes >= min_votes - 1e-9:
            merged.append(_merge(members, weights))
    return sorted(merged, key=lambda span: (span.start, span.end))


def _clusters(spans: Sequence[pb.Span], overlap: float) -> list[list[int]]:
    """Indices of spans that are about the same, directly or through others between them."""
    parent = list(range(len(spans)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    ordered = sorted(range(len(spans)), key=lambda index: spans[index].start)
    for place, index in enumerate(ordered):
        for other in ordered[place + 1 :]:
            if spans[other].start >= spans[index].end:
                break
            if _shared(spans[index], spans[other]) >= overlap:
                parent[root(other)] = root(index)
    clusters: dict[int, list[int]] = {}
    for index in range(len(spans)):
        clusters.setdefault(root(index), []).append(index)
    return list(clusters.values())


def _shared(one: pb.Span, other: pb.Span) -> float:
    shorter = min(one.end - one.start, other.end - other.start)
    return (min(one.end, other.end) - max(one.start, other.start)) / shorter if shorter > 0 else 0.0


def _merge(members: Sequence[tuple[str, pb.Span]], weights: Mapping[str, float]) -> pb.Span:
    spans = [span for _, span in members]
    result = pb.Span(
        start=_median(span.start for span in spans),
        end=_median(span.end for span in spans),
        label=Counter(span.label for span in spans).most_common(1)[0][0],
        comment="\n".join(f"{name}: {span.comment}" for name, span in members if span.comment),
    )
    valued = [(weights[name], span.value) for name, span in members if span.HasField("value")]
    total = sum(weight for weight, _ in valued)
    if total > 0:
        result.value = sum(weight * value for weight, value in valued) / total
    return result


def _median(values: Iterable[int]) -> int:
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
