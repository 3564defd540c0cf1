"""A migration in a few lines for people: what is INT8 now, what a cache had and the Q/DQ model has not."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.client.commands.importing import lines_from_import, listed
from app.client.summary import accuracies_from_report, format_share

_SHOWN = 12


def lines_from_migration(document: Mapping[str, Any]) -> list[str]:
    """Return what somebody wants to know of a migrated model."""
    report, changes = document["report"], document["report"]["migration"]
    lines = [f"{document['output']}  {document['bytes']} bytes", *lines_from_import(document["table"])]
    return lines + list(_layers(report, changes)) + list(_tensors(changes)) + list(_accuracy(document["judge"]))


def _layers(report: Mapping[str, Any], changes: Mapping[str, Any]) -> Iterator[str]:
    layers, weights = changes["layers"], changes["weights"]
    share = format_share(report["multiply_adds_int8"])
    yield f"layers: {layers['int8']} read INT8 ({share} of the multiply-adds), {layers['fused']} are fused into these"
    yield from _shown("  float now:", (f"{row['node']} ({row['op']}): {row['reason']}" for row in layers["float"]))
    channels = sum(row["scales"] == "channel" for row in weights)
    yield f"weights: {len(weights)} INT8, {channels} with a scale per output channel"
    yield f"bias: {changes['bias']['float']} stay float"


def _tensors(changes: Mapping[str, Any]) -> Iterator[str]:
    tensors = changes["tensors"]
    yield f"tensors: {tensors['cache']} had a scale, {tensors['pairs']} have a Q/DQ pair"
    for reason, count in Counter(row["reason"] for row in tensors["lost"]).most_common():
        yield f"  {count} without one now: {reason}"
    if tensors["gained"]:
        yield f"  {len(tensors['gained'])} new: {listed(tensors['gained'])}"
    if tensors["zero_points"]:
        yield f"zero points: {tensors['zero_points']} of {tensors['pairs']}; the others may lie as far below zero as above it"
    moved = (f"{row['tensor']}: {row['cache']:.6g} -> {row['now']:.6g}" for row in tensors["changed"] if not row["zero_point"])
    yield from _shown("  other scale, for one is shared:", moved)


def _accuracy(judge: Mapping[str, Any] | None) -> Iterator[str]:
    if judge is None:
        return
    if judge.get("agreement") is not None:
        yield f"agreement with FP32: {format_share(judge['agreement'])} of {judge['images']} images"
    accuracies = accuracies_from_report(dict(judge))
    if accuracies["fp32"] is not None:
        yield f"accuracy: FP32 {format_share(accuracies['fp32'])}, INT8 {format_share(accuracies['int8'])}"


def _shown(label: str, items: Iterable[str]) -> Iterator[str]:
    listed = list(items)
    for item in listed[:_SHOWN]:
        yield f"{label} {item}"
    if len(listed) > _SHOWN:
        yield f"{label} and {len(listed) - _SHOWN} more (--json lists all)"
