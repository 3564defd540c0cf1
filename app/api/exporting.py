"""Tables on their way out: TRT cache text with all that TensorRT asks for, ONNX Runtime's table."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from app.api.context import Context
from app.api.staging import staging_folder
from app.child.parent import ChildCall, run_child
from app.db import uploads
from app.db.rows import ModelRow, TableRow
from app.errors import UnsupportedOption
from app.jobs.resolve import find_equalizer, is_equalized, resolved_model
from app.quant.ort_table import format_ort_table
from app.quant.table import scale_from_amax, scales_from_table, table_from_json, table_to_text
from app.quant.trt_cache import format_trt_cache
from app.worker.files import model_path

_STEP = "app.worker.steps.export_cache:export_cache"


@dataclass(frozen=True)
class Header:
    """The first line of a cache that is asked for: a version such as 10.6.0, and the calibrator's algorithm."""

    trt_version: str | None
    algorithm: str | None

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked for."""
        return self.trt_version is None and self.algorithm is None


def check_exportable(row: TableRow) -> None:
    """Raise UnsupportedOption for a table whose ranges are those of another model than the uploaded one."""
    if is_equalized(row):
        reason = "its ranges are those of the equalized model; take the Q/DQ model at /qdq, or calibrate without equalize"
        raise UnsupportedOption(option="a cache of a table with quantize.equalize", reason=reason)


async def trt_cache(context: Context, row: TableRow, header: Header) -> bytes:
    """Return the cache text: the table's tensors, and constants and products as TensorRT lists them itself.

    What TensorRT's own calibrator wrote comes as it is where no header is asked for.
    """
    if (own := row.facts.get("native_cache")) and header.is_open:
        return await asyncio.to_thread(lambda: context.service.blobs.fetch(own).read_bytes())
    version, algorithm = header.trt_version or "10.6.0", header.algorithm or "EntropyCalibration2"
    format_trt_cache({}, version, algorithm)
    listed = await ask_tensorrt(context, row)
    scales = {name: scale_from_amax(name, value) for name, value in listed["amax"].items()}
    return format_trt_cache(scales, version, algorithm).encode()


def own_json(context: Context, row: TableRow) -> bytes:
    """Return the table as our own JSON, which says of what model the ranges are where that was equalized."""
    body = context.service.blobs.fetch(row.body).read_bytes()
    equalizer = find_equalizer(row)
    return table_to_text(replace(table_from_json(body), equalizer=equalizer)).encode() if equalizer else body


def ort_table(context: Context, row: TableRow) -> bytes:
    """Return the table as ONNX Runtime's calibration.flatbuffers."""
    check_exportable(row)
    return format_ort_table(scales_from_table(table_from_json(context.service.blobs.fetch(row.body).read_bytes())))


async def coverage(context: Context, row: TableRow) -> dict[str, Any]:
    """Return what TensorRT asks for when it builds from this table's cache, and what the cache lacks."""
    listed = await ask_tensorrt(context, row)
    names = ("asked", "added", "missing", "names_from")
    return {"table_id": row.id, "listed": len(listed["amax"])} | {name: listed[name] for name in names}


async def ask_tensorrt(context: Context, row: TableRow) -> dict[str, Any]:
    """Return what the step export_cache says of the table."""
    check_exportable(row)
    service = context.service
    with service.database.reading() as session:
        model = resolved_model(uploads.get_upload(session, ModelRow, row.model_id))
    async with staging_folder(service.settings) as folder, context.inspecting:
        request = {
            "model": await asyncio.to_thread(model_path, service.blobs, model, folder / "model"),
            "table": str(await asyncio.to_thread(service.blobs.fetch, row.body)),
            "kept": row.facts.get("kept", {}),
            "listed": row.facts.get("listed", []),
        }
        limit = service.settings.step_limits.inspect_seconds
        return await run_child(ChildCall(_STEP, request, "export", limit, folder=folder))
