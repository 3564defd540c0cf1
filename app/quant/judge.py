"""Compare the outputs of an engine with those of the FP32 model: agreement, accuracy, cosine, SQNR."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.errors import GateMissed, JudgeProblem
from app.quant.margins import Margins
from app.spec import GateSpec

#: Below this agreement a report carries the warning `accuracy_low`, gate or not.
LOW_AGREEMENT = 0.9

Outputs = Mapping[str, np.ndarray]
Labels = Sequence[int | None]


@dataclass
class _OutputSums:
    """Sums in float64 over all elements of one output: r = reference, t = tested."""

    elements: int = 0
    dot: float = 0.0
    reference_square: float = 0.0
    tested_square: float = 0.0
    error_square: float = 0.0
    error: float = 0.0
    largest_error: float = 0.0

    def add(self, reference: np.ndarray, tested: np.ndarray) -> None:
        r, t = reference.ravel().astype(np.float64), tested.ravel().astype(np.float64)
        gap = np.abs(r - t)
        self.elements += r.size
        self.dot += float(r @ t)
        self.reference_square += float(r @ r)
        self.tested_square += float(t @ t)
        self.error_square += float(gap @ gap)
        self.error += float(gap.sum())
        self.largest_error = max(self.largest_error, float(gap.max(initial=0.0)))

    def to_json(self) -> dict[str, Any]:
        norm = math.sqrt(self.reference_square * self.tested_square)
        is_measurable = self.error_square > 0 and self.reference_square > 0
        ratio = self.reference_square / self.error_square if is_measurable else 0.0
        return {
            "cosine": self.dot / norm if norm > 0 else None,
            "sqnr_db": 10 * math.log10(ratio) if ratio > 0 else None,
            "mean_error": self.error / self.elements if self.elements else None,
            "max_error": self.largest_error,
        }


@dataclass
class Comparison:
    """Adds up batch after batch; of each image one number is kept."""

    images: int = 0
    agreed: int = 0
    labelled: int = 0
    reference_right: int = 0
    tested_right: int = 0
    labels_outside: int = 0
    classification_output: str | None = None
    _margins: Margins = field(default_factory=Margins)
    _sums: dict[str, _OutputSums] = field(default_factory=dict)

    def add(self, reference: Outputs, tested: Outputs, labels: Labels) -> None:
        """Count one batch: outputs by name with the batch as first dimension, a class index or None for each image.

        Raises JudgeProblem where the outputs do not fit each other or are not finite.
        """
        _check_outputs(reference, tested)
        if self.images == 0:
            self.classification_output = find_classification_output(reference, len(labels))
        self.images += len(labels)
        for name, values in reference.items():
            if np.issubdtype(values.dtype, np.floating):
                self._sums.setdefault(name, _OutputSums()).add(values, tested[name])
        if self.classification_output is not None:
            name = self.classification_output
            self._count_classes(reference[name], tested[name], labels)

    def _count_classes(self, reference: np.ndarray, tested: np.ndarray, labels: Labels) -> None:
        if len(reference) != len(labels):
            raise JudgeProblem(reason=f"the model gave {len(reference)} rows for {len(labels)} images")
        self._margins.add(reference, tested)
        expected, found = reference.argmax(axis=1), tested.argmax(axis=1)
        self.agreed += int((expected == found).sum())
        for label, by_reference, by_tested in zip(labels, expected.tolist(), found.tolist(), strict=True):
            if label is None:
                continue
            self.labelled += 1
            self.labels_outside += not 0 <= label < reference.shape[1]
            self.reference_right += label == by_reference
            self.tested_right += label == by_tested

    def to_json(self) -> dict[str, Any]:
        """Return the report.

        images, labelled: how many · classification_output: the first float output of a row an image and two columns or
        more, null without one · agreement: share of images with the same top-1 class, null without that output ·
        expected_agreement: the share to expect of other images like these, see `margins` · accuracy_fp32, accuracy_int8,
        accuracy_drop (fp32 minus int8): share of labelled images, null without labels or where a label is no class ·
        mean_error: of the classification output, else of all · outputs: {name: {cosine, sqnr_db,
        mean_error, max_error}}, sqnr_db = 10 log10(sum r^2 / sum (r - t)^2), null where there is no error ·
        warnings: accuracy_low, labels_outside.

        Raises JudgeProblem where no image was compared.
        """
        if self.images == 0:
            raise JudgeProblem(reason="there is no image to compare on")
        has_classes = self.classification_output is not None
        has_accuracy = has_classes and self.labelled > 0 and self.labels_outside == 0
        accuracies = [right / self.labelled if has_accuracy else None for right in self._right()]
        report = {
            "images": self.images,
            "labelled": self.labelled,
            "classification_output": self.classification_output,
            "agreement": self.agreed / self.images if has_classes else None,
            "expected_agreement": self._margins.expected_agreement(),
            "accuracy_fp32": accuracies[0],
            "accuracy_int8": accuracies[1],
            "accuracy_drop": (self.reference_right - self.tested_right) / self.labelled if has_accuracy else None,
            "mean_error": self._mean_error(),
            "outputs": {name: sums.to_json() for name, sums in self._sums.items()},
        }
        return report | {"warnings": self._warnings(report["agreement"])}

    def _right(self) -> tuple[int, int]:
        return self.reference_right, self.tested_right

    def _mean_error(self) -> float | None:
        chosen = [self._sums[self.classification_output]] if self.classification_output else list(self._sums.values())
        elements = sum(sums.elements for sums in chosen)
        return sum(sums.error for sums in chosen) / elements if elements else None

    def _warnings(self, agreement: Any) -> list[str]:
        warnings = ["accuracy_low"] if agreement is not None and agreement < LOW_AGREEMENT else []
        return warnings + (["labels_outside"] if self.labels_outside else [])


def find_classification_output(outputs: Outputs, images: int) -> str | None:
    """Return the first output that is float[images, classes] with two classes or more; a detector's boxes are more rows."""
    for name, values in outputs.items():
        is_row_an_image = values.ndim == 2 and len(values) == images
        if is_row_an_image and values.shape[1] >= 2 and np.issubdtype(values.dtype, np.floating):
            return name
    return None


def judge_rank(report: Mapping[str, Any]) -> tuple[float, float]:
    """Return what orders reports, the best first: agreement falling, then mean error rising."""
    agreement, error = report["agreement"], report["mean_error"]
    return (-agreement if agreement is not None else 0.0, error if error is not None else 0.0)


def check_gate(report: Mapping[str, Any], gate: GateSpec) -> None:
    """Raise GateMissed with the numbers where the report misses the gate, JudgeProblem where it cannot be told."""
    missed = []
    if gate.min_agreement is not None:
        agreement = _measured(report, "agreement", "min_agreement", "the model has no output of shape [N, classes]")
        if agreement < gate.min_agreement:
            missed.append(f"agreement {agreement:.4f} is below min_agreement {gate.min_agreement:g}")
    if gate.max_accuracy_drop is not None:
        needs = "it needs labels (a folder per class, classes of the model) and an output of shape [N, classes]"
        drop = _measured(report, "accuracy_drop", "max_accuracy_drop", needs)
        if drop > gate.max_accuracy_drop:
            accuracies = f"FP32 {report['accuracy_fp32']:.4f}, INT8 {report['accuracy_int8']:.4f}"
            missed.append(f"accuracy drops by {drop:.4f} ({accuracies}), max_accuracy_drop is {gate.max_accuracy_drop:g}")
    if missed:
        raise GateMissed(reason=f"{'; '.join(missed)}, on {report['images']} images")


def _measured(report: Mapping[str, Any], name: str, gate: str, needs: str) -> float:
    if report[name] is None:
        raise JudgeProblem(reason=f"gate.{gate} cannot be checked: {needs}")
    return report[name]


def _check_outputs(reference: Outputs, tested: Outputs) -> None:
    for name, values in reference.items():
        if name not in tested or tested[name].shape != values.shape:
            raise JudgeProblem(reason=f"the engine's output {name} is missing or has another shape than the model's")
        for side, array in (("FP32 model", values), ("engine", tested[name])):
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise JudgeProblem(reason=f"output {name} of the {side} holds NaN or infinity")
