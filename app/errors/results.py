"""What is wrong with tables, calibration, quantization and engines."""

from app.errors.problem import Problem


class TableProblem(Problem):
    """The calibration table is not valid: {reason}."""

    status = 422
    slug = "table-invalid"


class TableScaleInvalid(TableProblem):
    """The scale of {tensor} is {value}; a scale is above zero, not denormal, and below 2^40. Nothing was stored."""

    slug = "table-scale-invalid"


class TableIncomplete(TableProblem):
    """The table has no amax for {tensors}, which the model's quantizers need. Calibrate again, or exclude those nodes."""

    slug = "table-incomplete"


class TableCoverage(TableProblem):
    """Only {matched} of {needed} tensors that the model quantizes are in the table (min_coverage {minimum}); it lacks {missing}. It belongs to another model, or lower min_coverage."""

    slug = "table-coverage-too-low"


class TableNondeterministic(TableProblem):
    """Two calibrations of the same input disagree by more than 1e-5, so neither table is served. Calibrate on one kind of worker."""

    status = 409
    slug = "table-nondeterministic"


class CalibrationProblem(Problem):
    """Calibration failed: {reason}."""

    status = 422
    slug = "calibration-failed"


class CalibrationNonfinite(CalibrationProblem):
    """Tensor {tensor} became NaN or infinite on image {image}. Check the preprocess spec and the weights."""

    slug = "calibration-nonfinite"


class CalibrationRandom(CalibrationProblem):
    """Node {node} ({op}) gives other values in every run, and {tensor} depends on it, so no calibration could be repeated. Export the model without it: in evaluation mode, or with a constant in its place."""

    slug = "calibration-random"


class DatasetTooSmall(CalibrationProblem):
    """The dataset has {images} usable images, at least {needed} are needed ({reason})."""

    slug = "dataset-too-small"


class QuantizeProblem(Problem):
    """The model cannot be quantized: {reason}."""

    status = 422
    slug = "quantize-failed"


class EngineProblem(Problem):
    """{backend} could not build the engine: {reason}."""

    status = 422
    slug = "build-failed"


class EngineTargetMismatch(EngineProblem):
    """Engine {engine} does not load there: it is for {built}. POST {rebuild} builds it for that target."""

    status = 409
    slug = "engine-target-mismatch"


class EngineDriverTooOld(EngineTargetMismatch):
    """Engine {engine} does not load there: it is for {built}. Install a newer driver there, or build on a worker whose TensorRT was made for an older CUDA."""


class GateMissed(EngineProblem):
    """The engine misses its gate: {reason}. The report says where; the engine is kept. Try method auto, exclude the worst layers, or lower the gate."""

    slug = "gate-missed"


class JudgeProblem(Problem):
    """The engine could not be judged: {reason}."""

    status = 422
    slug = "judge-failed"
