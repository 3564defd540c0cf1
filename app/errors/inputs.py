"""What is wrong with archives, images and models."""

from app.errors.problem import Problem


class ArchiveProblem(Problem):
    """The archive cannot be read: {reason}. Send a zip, tar, tar.gz or tar.zst of image files."""

    status = 422
    slug = "archive-invalid"


class ArchiveAmbiguous(ArchiveProblem):
    """Two readers of this archive would see different things: {reason}. Make it anew with an ordinary tool."""

    slug = "archive-ambiguous"


class ArchiveCorrupt(ArchiveProblem):
    """Member {member} is damaged: {reason}. Make the archive anew."""

    slug = "archive-corrupt"


class ArchiveUnsupported(ArchiveProblem):
    """Member {member} cannot be read: {reason}. Use plain or deflated zip members without a password, or tar."""

    slug = "archive-unsupported"


class ArchiveUnsafePath(ArchiveProblem):
    """Member {member} has a path that is refused: {reason}. Use relative paths below the archive's root."""

    slug = "archive-unsafe-path"


class ArchiveUnsafeMember(ArchiveProblem):
    """Member {member} is a {kind}; only plain files and folders are taken. Leave it out (tar --dereference follows links)."""

    slug = "archive-unsafe-member"


class ArchiveDuplicateName(ArchiveProblem):
    """Member {member} is in the archive twice. Keep one."""

    slug = "archive-duplicate-name"


class ArchiveTooManyEntries(ArchiveProblem):
    """The archive has more than {limit} members (GET /limits). Send fewer images, or add them in parts with PATCH."""

    slug = "archive-too-many-entries"


class ArchiveRatioExceeded(ArchiveProblem):
    """The archive unpacks to far more than it weighs: {reason}. Nothing was stored."""

    slug = "archive-ratio-exceeded"


class ArchiveTooLarge(ArchiveProblem):
    """The archive unpacks to more than {limit_bytes} bytes ({what}; GET /limits). Send less."""

    slug = "archive-too-large"


class DatasetEmpty(ArchiveProblem):
    """The archive holds no image{ignored}. Send JPEG, PNG, BMP, GIF, TIFF or WebP files."""

    slug = "dataset-empty"


class FolderEmpty(DatasetEmpty):
    """The folder {folder} holds no image. It takes JPEG, PNG, BMP, GIF, TIFF or WebP files."""

    slug = "folder-empty"


class LabelsInvalid(ArchiveProblem):
    """labels.txt does not fit the folders: {reason}. It has one class name a line, for every folder that holds images."""

    slug = "labels-invalid"


class ImageProblem(Problem):
    """Image {image} cannot be used: {reason}."""

    status = 422
    slug = "image-invalid"


class ImageUnsupportedFormat(ImageProblem):
    """{count} of the files are no images that are taken, first of all {names}. Send JPEG, PNG, BMP, GIF, TIFF or WebP files and nothing else."""

    slug = "image-unsupported-format"


class ImageTooLarge(ImageProblem):
    """Image {image} has {pixels} pixels, the limit is {limit} (GET /limits). Send it smaller; it is resized anyway."""

    slug = "image-too-large"


class ImageCorrupt(ImageProblem):
    """{count} images cannot be decoded: {names}. Replace them, or set calibration.on_bad_image to skip with a max_bad_fraction."""

    slug = "image-corrupt"


class ModelProblem(Problem):
    """The file is no valid ONNX model: {reason}. Check it with onnx.checker and export it again."""

    status = 422
    slug = "model-invalid"


class ModelTooLarge(ModelProblem):
    """An ONNX file above 2 GiB cannot be read. Save it with external data and send model and data as one zip or tar."""

    slug = "model-too-large-for-protobuf"


class ModelTooComplex(ModelProblem):
    """The model exceeds a limit: {reason} (GET /limits)."""

    slug = "model-too-complex"


class ModelExternalDataMissing(ModelProblem):
    """Tensor {tensor} is stored in the file {location}, which was not sent. Send one zip or tar with the .onnx and its data files."""

    slug = "model-external-data-missing"


class ModelExternalDataUnsafe(ModelProblem):
    """Tensor {tensor} names external data that is refused: {reason}. Save the model with its data in one file beside it."""

    slug = "model-external-data-unsafe"


class ModelExternalDataInvalid(ModelProblem):
    """Tensor {tensor} has unusable external data: {reason}. Export the model again."""

    slug = "model-external-data-invalid"


class ModelArchiveInvalid(ModelProblem):
    """A model archive holds exactly one .onnx file and its external data; this one: {reason}."""

    slug = "model-archive-invalid"


class ModelInitializerInvalid(ModelProblem):
    """Initializer {tensor} is not usable: {reason}. Export the model again."""

    slug = "model-initializer-invalid"


class ModelInvalidGraph(ModelProblem):
    """The graph is not valid: {reason}."""

    slug = "model-invalid-graph"


class ModelUnsupportedOp(ModelProblem):
    """Node {node} uses {op}, which is not supported: {reason}. Export the model with standard ONNX operators."""

    slug = "model-unsupported-op"


class ModelAlreadyQuantized(ModelProblem):
    """The model is quantized already (node {node} is {op}). Upload the FP32 model; quantizing is this service's work."""

    slug = "model-already-quantized"


class ModelInputUnsupported(ModelProblem):
    """Input {input} ({dtype} {shape}) cannot be fed with images: {reason}."""

    slug = "model-input-unsupported"


class ModelNonfinite(ModelProblem):
    """{count} weights hold NaN or infinity, first of all {tensor}. Export a healthy checkpoint."""

    slug = "model-nonfinite"


class ModelTensorNameUnsafe(ModelProblem):
    """A tensor's name is refused: {reason}. Rename it; names are written into caches line by line."""

    slug = "tensor-name-unsafe"


class ModelInspectionLimit(ModelProblem):
    """Reading the model took more memory or time than is allowed. Simplify it (constant folding) and send it again."""

    slug = "model-inspection-resource-limit"


class ModelParserCrashed(ModelProblem):
    """The ONNX parser crashed on this file ({reason}), so it is not stored. Export the model again."""

    slug = "model-parser-crashed"
