"""What is wrong with a request."""

from app.errors.problem import Problem


class RequestProblem(Problem):
    """The request cannot be understood: {reason}"""

    status = 400
    slug = "invalid-request"


class SpecProblem(RequestProblem):
    """The job spec is not valid: {reason}. GET /openapi.json describes JobSpec."""

    status = 422
    slug = "invalid-spec"


class QueryProblem(SpecProblem):
    """The query is not valid: {reason}. GET /openapi.json describes the parameters of every address."""


class UnsupportedOption(RequestProblem):
    """{option} is not available: {reason}"""

    status = 422
    slug = "unsupported-option"


class NameInvalid(RequestProblem):
    """The name is refused: {reason}."""

    status = 422
    slug = "name-invalid"


class NotFound(RequestProblem):
    """There is no {kind} {name}. GET /v1/{kind}s lists what there is."""

    status = 404
    slug = "not-found"


class AddressUnknown(NotFound):
    """There is nothing at {name}. GET /openapi.json lists the addresses that there are."""


class ReportMissing(NotFound):
    """Job {name} has no report: {reason}. GET {address} tells of {what}."""


class Unauthenticated(RequestProblem):
    """Send a token of this server as `Authorization: Bearer TOKEN` (command line: ENGINESMITH_TOKEN)."""

    status = 401
    slug = "unauthenticated"


class ForeignOrigin(RequestProblem):
    """Requests from other web pages or for other host names are refused without a token: {reason}."""

    status = 403
    slug = "forbidden"


class MethodNotAllowed(RequestProblem):
    """This address takes other methods; GET /openapi.json lists them."""

    status = 405
    slug = "method-not-allowed"


class PayloadTooLarge(RequestProblem):
    """The body is larger than the limit of {limit_bytes} bytes (GET /limits shows the limits; settings raise them)."""

    status = 413
    slug = "payload-too-large"


class RequestTimeout(RequestProblem):
    """No bytes came for {seconds} seconds, or too few; the upload was dropped and nothing was stored. Send it again."""

    status = 408
    slug = "request-timeout"


class UploadTruncated(RequestProblem):
    """The body ended after {received} bytes; nothing was stored. Send it again."""

    slug = "upload-truncated"


class EncodedBody(RequestProblem):
    """Content-Encoding {encoding} is not taken; send the plain bytes (archives are compressed already)."""

    status = 415
    slug = "unsupported-content-encoding"


class MediaTypeUnsupported(RequestProblem):
    """This address takes {expected}, not {received}."""

    status = 415
    slug = "unsupported-media-type"


class DigestInvalid(RequestProblem):
    """{header} is malformed: give sha-256=:BASE64: in Content-Digest, or 64 lowercase hex digits in X-Content-SHA256."""

    slug = "invalid-digest"


class DigestMismatch(RequestProblem):
    """The bytes that arrived have sha256 {actual}, not {expected}; nothing was stored. Send the file again."""

    status = 422
    slug = "digest-mismatch"


class RangeInvalid(RequestProblem):
    """The range cannot be served; the resource has {size} bytes."""

    status = 416
    slug = "range-not-satisfiable"


class ShapeProfileRequired(RequestProblem):
    """Input {input} has the dynamic dimension {dimension} (shape {shape}). Only a dynamic batch gets a profile by itself: give engine.shapes["{input}"] as min, opt and max."""

    status = 422
    slug = "shape-profile-required"


class ShapeProfileInvalid(RequestProblem):
    """engine.shapes does not fit the model: {reason}."""

    status = 422
    slug = "shape-profile-invalid"


class PreprocessRequired(RequestProblem):
    """How images become input {input} of shape {shape} cannot be read from the model: {reason}. Give preprocess.size, .color and .layout."""

    status = 422
    slug = "preprocess-required"


class InputLayoutMismatch(RequestProblem):
    """The preprocess spec makes {made}, but input {input} takes {shape}. Change preprocess.size, .color or .layout."""

    status = 422
    slug = "input-layout-mismatch"


class WorkerUnavailable(RequestProblem):
    """No live worker serves {capability}; live workers serve: {live}. Start one with that backend installed (`enginesmith worker`), choose another engine.backend, or set wait_for_worker_seconds."""

    status = 422
    slug = "worker-unavailable"


class ComputeCapabilityRequired(RequestProblem):
    """tensorrt-rtx builds ahead of time for chosen GPUs: give engine.compute_capability, one or a list of {supported}."""

    status = 422
    slug = "compute-capability-required"


class ComputeCapabilityUnsupported(RequestProblem):
    """engine.compute_capability {value} cannot be built: {reason}."""

    status = 422
    slug = "compute-capability-unsupported"
