"""What the GPU benchmark does without a GPU: the net that it makes, and a problem that says what is missing."""

import onnx
import pytest

from app.bench.gpu import default_gpu_net
from app.bench.resnet50 import make_resnet50
from app.client.cli import run_command
from app.cuda.runtime import find_tensorrt
from app.quant.graph import find_activations
from tests.observers.nets import DIGITS


def test_the_thin_net_has_the_layers_of_the_wide_one() -> None:
    wide, thin = make_resnet50(64), make_resnet50(64, width=16)
    onnx.checker.check_model(thin, full_check=True)
    assert find_activations(thin) == find_activations(wide)
    sizes = [sum(len(tensor.raw_data) for tensor in net.graph.initializer) for net in (wide, thin)]
    assert 10 < sizes[0] / sizes[1] < 16
    assert default_gpu_net(7).count == 7


@pytest.mark.skipif(find_tensorrt() is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_benchmark_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "gpu", "--count", "8"]) == 2
    assert "pip install enginesmith[tensorrt]" in capsys.readouterr().err


def test_images_need_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "gpu", "--images", str(DIGITS / "mnist-calibration-500.zip")]) == 2
    assert "--images needs --model" in capsys.readouterr().err
