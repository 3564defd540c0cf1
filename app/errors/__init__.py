"""Everything that can go wrong, as one tree. A class's docstring is its message: it says what to do.

Problem                          500 internal
├── RequestProblem               400 invalid-request: the request itself
│   ├── spec: unknown-field, worker-unavailable, shape-profile-required, preprocess-required ...
│   └── upload: payload-too-large, digest-mismatch, name-invalid ...
├── ArchiveProblem               422 archive-*: an archive of images that is not taken
├── ImageProblem                 422 image-*: a picture, by its name in the archive
├── ModelProblem                 422 model-*: an ONNX file, or what it asks for
├── TableProblem                 422 table-*: a calibration table
├── CalibrationProblem           422 calibration-*, dataset-*: what the images did to the model
├── EngineProblem                422 build-*, gate-missed: what the backend said
└── ServiceProblem               503: ours, try again
    └── WorkerProblem            a child or worker that ended badly

The slug is the problem's `code` over HTTP and, with _ for -, the job's `error.code`.
"""

from app.errors.inputs import *
from app.errors.problem import *
from app.errors.request import *
from app.errors.results import *
from app.errors.service import *
