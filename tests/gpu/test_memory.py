"""GPU memory: an absurd request fails as gpu-oom, and the context works on."""

import numpy as np
import pytest

from app.cuda.buffers import DeviceBuffer, open_stream, pinned_array
from app.cuda.device import Device
from app.errors import GpuOom


def test_too_much_memory_is_a_problem_and_nothing_breaks(gpu: Device) -> None:
    with pytest.raises(GpuOom, match="batch_size"):
        DeviceBuffer(gpu.memory_bytes * 4)
    stream, sent, back = open_stream(), pinned_array((1000,)), pinned_array((1000,))
    sent[...] = np.arange(1000)
    with DeviceBuffer(sent.nbytes) as buffer:
        buffer.upload(sent, stream)
        buffer.download(back, stream)
        stream.synchronize()
        np.testing.assert_array_equal(back, sent)
        buffer.clear(stream)
        buffer.download(back, stream)
        stream.synchronize()
    assert not back.any()
