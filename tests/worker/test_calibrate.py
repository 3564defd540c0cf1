"""The step calibrate asks for whole batches of the model's input before it goes near a GPU."""

from pathlib import Path

import onnx
import pytest

from app.cuda.device import count_devices
from app.errors import EngineProblem, ModelInputUnsupported, WorkerProblem
from app.worker.steps.calibrate import calibrate
from tests.quant.samples import digits_model
from tests.worker.observing import DIGITS, ignore, request_on, store_dataset


def request(folder: Path, batch: int) -> dict:
    model = digits_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    path = folder / "fixed.onnx"
    onnx.save(model, path)
    dataset = store_dataset(folder, dict(list(DIGITS.items())[:8]))
    asked = request_on(dataset, folder / "table", method="native-minmax", batch_size=batch)
    return asked | {"model": str(path), "cache": str(folder / "cache")}


def test_a_fixed_batch_is_the_only_one(tmp_path: Path) -> None:
    with pytest.raises(ModelInputUnsupported, match="always 4"):
        calibrate(request(tmp_path, 8), ignore)


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    if count_devices():
        pytest.skip("there is a GPU")
    with pytest.raises((EngineProblem, WorkerProblem), match="not installed"):
        calibrate(request(tmp_path, 4), ignore)
    assert not (tmp_path / "table").exists()
