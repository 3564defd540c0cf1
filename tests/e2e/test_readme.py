"""The README's shell examples, run as they stand against a real server."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, RunningServer

EXAMPLES = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> "Path":
    """A folder with what a clone has and the examples need."""
    folder = tmp_path_factory.mktemp("clone")
    for part in ("app/client/digits", "tests/oracle"):
        shutil.copytree(ROOT / part, folder / part)
    return folder


def run_example(example: str, server: RunningServer, folder: Path) -> str:
    """Run a block of the README with bash -e and return what it printed."""
    script = "set -euo pipefail\nexport PATH=" + str(Path(sys.executable).parent) + ":$PATH\n"
    script += example.replace("http://127.0.0.1:8000", server.url)
    ended = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4


def test_curl_session(server: RunningServer, fresh: Path) -> None:
    said = run_example(EXAMPLES[0], server, fresh)
    assert "succeeded" in said
    assert '"accuracy_int8"' in said
    assert "TRT-100600-EntropyCalibration2" in said
    for name in ("digits.int8.onnx", "digits.qdq.onnx"):
        assert (fresh / "app/client/digits" / name).stat().st_size > 10_000


def test_one_request_and_problems(server: RunningServer, fresh: Path) -> None:
    said = run_example(EXAMPLES[1], server, fresh)
    assert '"state":"succeeded"' in said
    assert '"code":"model-archive-invalid"' in said
    assert '"code":"not-found"' in said


def test_migration(server: RunningServer, fresh: Path) -> None:
    run_example(EXAMPLES[2], server, fresh)
    assert (fresh / "migrated.onnx").stat().st_size > 10_000
    assert (fresh / "imported.onnx").stat().st_size > 10_000


def test_command_line_in_ci(server: RunningServer, fresh: Path) -> None:
    run_example(EXAMPLES[3], server, fresh)
    assert (fresh / "digits.int8.onnx").stat().st_size > 10_000
    missed = EXAMPLES[3].replace("--max-accuracy-drop 0.01", "--method entropy --min-agreement 0.99")
    with pytest.raises(AssertionError, match="agreement"):
        run_example(missed, server, fresh)
