"""A job as it was resolved at its submission: digests instead of names, every default decided. Stored with the job."""

from collections.abc import Iterable
from typing import Any, Self

from app.spec import Frozen, JobSpec


class StoredFile(Frozen):
    """A file of a model, by its name beside the others."""

    name: str
    sha256: str
    size: int


class ResolvedModel(Frozen):
    """A model and its files, the .onnx first."""

    id: str
    name: str
    digest: str
    files: tuple[StoredFile, ...]
    inputs: tuple[dict[str, Any], ...]


class ResolvedDataset(Frozen):
    """A dataset: its listing and the packs that hold its images, all by digest."""

    id: str
    name: str
    digest: str
    listing: str
    packs: tuple[str, ...]
    images: int
    labelled: bool


class Tools(Frozen):
    """What does the work, with versions: these are in the keys."""

    observer: str
    decoder: str
    judge: str
    backend: str | None


class ResolvedJob(Frozen):
    """Everything that a worker needs to know."""

    spec: JobSpec
    model: ResolvedModel
    dataset: ResolvedDataset | None
    judge_dataset: ResolvedDataset | None
    tools: Tools
    #: Key of what `quantize.exclude: auto` came to; None as long as that is not known, and without auto.
    exclusion: str | None = None

    def excluding(self, names: Iterable[str], exclusion: str) -> Self:
        """Return the job with these names in the place of `auto`."""
        quantize = self.spec.quantize.excluding(names)
        spec = self.spec.model_copy(update={"quantize": quantize})
        return self.model_copy(update={"spec": spec, "exclusion": exclusion})

    @property
    def is_judged(self) -> bool:
        """Whether INT8 is compared with FP32 after the build."""
        return self.spec.is_quantized and (self.judge_dataset or self.dataset) is not None
