"""How much one upload may hold. Part of the settings; `GET /limits` shows it."""

from pydantic import BaseModel, ConfigDict, Field

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30


class InputLimits(BaseModel):
    """Limits of archives, images and models. Counted on real bytes, never on what a header claims alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Members of an archive: files, folders and ignored ones together.
    archive_members: int = Field(default=200_000, ge=1)
    #: Unpacked bytes of one member, and of all.
    member_bytes: int = Field(default=64 * MEBIBYTE, ge=1)
    archive_bytes: int = Field(default=16 * GIBIBYTE, ge=1)
    #: Unpacked bytes for each byte sent; what unpacks to less than `archive_ratio_free_bytes` is never judged by it.
    archive_ratio: int = Field(default=200, ge=1)
    archive_ratio_free_bytes: int = Field(default=64 * MEBIBYTE, ge=0)
    #: Bytes of a zip's table of contents, held in memory while it is checked.
    archive_directory_bytes: int = Field(default=64 * MEBIBYTE, ge=1)
    #: Bytes of a member's path in UTF-8.
    path_bytes: int = Field(default=1024, ge=1)
    #: Width times height, known from the header before anything is decoded.
    image_pixels: int = Field(default=64_000_000, ge=1)
    labels_bytes: int = Field(default=1 * MEBIBYTE, ge=1)

    #: An ONNX file with its external data; the ONNX file alone stays below protobuf's 2 GiB.
    model_bytes: int = Field(default=16 * GIBIBYTE, ge=1)
    #: Members of a model's archive.
    model_members: int = Field(default=10_000, ge=1)
    #: Nodes of the graph and of all its subgraphs.
    model_nodes: int = Field(default=100_000, ge=1)
    model_initializers: int = Field(default=100_000, ge=1)
    model_attributes: int = Field(default=1_000_000, ge=1)
    #: Subgraphs in subgraphs (If, Loop, Scan).
    model_depth: int = Field(default=8, ge=1)
    #: Characters of all doc strings and metadata.
    model_text_characters: int = Field(default=64 * MEBIBYTE, ge=1)
    tensor_dimensions: int = Field(default=32, ge=1)
    #: Elements of an activation whose shape is static but for the batch.
    tensor_elements: int = Field(default=1 << 31, ge=1)
    tensor_name_characters: int = Field(default=1024, ge=1)

    def of_model_archive(self) -> "InputLimits":
        """Return these limits with the archive's set for a model: few members, of any size that a model may have."""
        members = min(self.archive_members, self.model_members)
        sizes = {"member_bytes": self.model_bytes, "archive_bytes": self.model_bytes}
        return self.model_copy(update={"archive_members": members, **sizes})
