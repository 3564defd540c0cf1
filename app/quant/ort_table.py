"""ONNX Runtime's own calibration table: `calibration.flatbuffers`, read by its TensorRT execution provider.

The schema is `table TrtTable { dict: [KeyValue]; } table KeyValue { key: string; value: string; }`, with amax as text.
"""

from collections.abc import Mapping

import flatbuffers
import numpy as np


def format_ort_table(scales: Mapping[str, np.float32]) -> bytes:
    """Return the flatbuffer of amax = 127 * scale by tensor name, sorted by name."""
    builder = flatbuffers.Builder(1024)
    entries = [_entry(builder, name, str(127 * float(scales[name]))) for name in sorted(scales)]
    builder.StartVector(4, len(entries), 4)
    for entry in reversed(entries):  # a flatbuffer grows downwards
        builder.PrependUOffsetTRelative(entry)
    vector = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _entry(builder: flatbuffers.Builder, name: str, value: str) -> int:
    key, text = builder.CreateString(name), builder.CreateString(value)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, key, 0)
    builder.PrependUOffsetTRelativeSlot(1, text, 0)
    return builder.EndObject()
