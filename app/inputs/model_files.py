"""A model's upload: bare ONNX bytes, or an archive with one .onnx file and its external data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from onnx import GraphProto, ModelProto, TensorProto

from app.errors import (
    ArchiveUnsafePath,
    ModelArchiveInvalid,
    ModelExternalDataInvalid,
    ModelExternalDataMissing,
    ModelExternalDataUnsafe,
    ModelTooLarge,
)
from app.inputs.archive import find_kind, read_archive
from app.inputs.budget import Member
from app.inputs.limits import InputLimits
from app.inputs.paths import check_path, is_litter

#: What a model's ONNX file is called wherever it is put; its data files keep their names, by which it knows them.
MODEL_FILE = "model.onnx"
_HEAD_BYTES = 512


@dataclass(frozen=True)
class Upload:
    """Where the ONNX file lies, and the archive that it came from (None for bare bytes)."""

    model_path: Path
    archive: Path | None
    #: The .onnx file's folder in the archive; locations of external data are relative to it.
    inner_folder: str
    limits: InputLimits

    def take_data_files(self, model: ModelProto) -> dict[str, Path]:
        """Write the external data files that the model names beside it; return their paths by location.

        Raises ModelExternalDataMissing and ModelExternalDataUnsafe.
        """
        wanted = {get_location(tensor): tensor.name for tensor in find_external_tensors(model)}
        if wanted and self.archive:
            self._write_members(self.archive, set(wanted))
        paths = {location: self.model_path.parent / location for location in wanted}
        for location, tensor in wanted.items():
            if self.archive is None or not paths[location].is_file():
                raise ModelExternalDataMissing(tensor=tensor, location=location)
        return paths

    def _write_members(self, archive: Path, wanted: set[str]) -> None:
        prefix = f"{self.inner_folder}/" if self.inner_folder else ""
        for member in read_archive(archive, self.limits):
            location = member.path.removeprefix(prefix)
            if member.path.startswith(prefix) and location in wanted:
                target = self.model_path.parent / location
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(member, target)


def open_upload(path: Path, folder: Path, limits: InputLimits) -> Upload:
    """Find the ONNX file of an upload, writing it into folder if it comes in an archive.

    Raises ModelArchiveInvalid and ArchiveProblem's classes.
    """
    with path.open("rb") as file:
        kind = find_kind(file.read(_HEAD_BYTES))
    if kind is None:
        return Upload(path, None, "", limits)
    archive_limits = limits.of_model_archive()
    target = folder / MODEL_FILE
    found: list[str] = []
    for member in read_archive(path, archive_limits):
        if member.path.lower().endswith(".onnx") and not is_litter(member.path):
            found.append(member.path)
            if len(found) > 1:
                raise ModelArchiveInvalid(reason=f"it holds {found[0]} and {found[1]}")
            if member.size >= 1 << 31:
                raise ModelTooLarge()
            _write(member, target)
    if not found:
        raise ModelArchiveInvalid(reason="it holds no .onnx file")
    inner_folder = str(PurePosixPath(found[0]).parent)
    return Upload(target, path, "" if inner_folder == "." else inner_folder, archive_limits)


def _write(member: Member, target: Path) -> None:
    # Mode x: whatever is there already, a link above all, is never written through.
    with target.open("xb") as file:
        for chunk in member.chunks:
            file.write(chunk)


def find_external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield the initializers, in subgraphs too, that are stored outside of the ONNX file."""
    graphs: list[GraphProto] = [model.graph]
    while graphs:
        graph = graphs.pop()
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                yield tensor
        for node in graph.node:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs


def get_location(tensor: TensorProto) -> str:
    """Return where a tensor's bytes are, relative to the model.

    Raises ModelExternalDataUnsafe for any path that is not below, ModelExternalDataInvalid where there is not one.
    """
    locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
    if len(locations) != 1 or isinstance(locations[0], bytes):
        raise ModelExternalDataInvalid(tensor=tensor.name, reason=f"its locations are {locations}")
    try:
        checked = check_path(locations[0])
    except ArchiveUnsafePath as problem:
        raise ModelExternalDataUnsafe(tensor=tensor.name, reason=f"{locations[0]}: {problem.facts['reason']}") from None
    if checked != locations[0].removeprefix("./") or checked.lower().endswith(".onnx"):
        raise ModelExternalDataUnsafe(tensor=tensor.name, reason=f"{locations[0]} is no data file")
    return checked
