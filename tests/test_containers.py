"""The Docker files name what is there: paths, extras, targets, commands, addresses. (They are not built here.)"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from app.client.cli import run_command

yaml = pytest.importorskip("yaml", reason="PyYAML comes with uvicorn[standard]")

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def stage(name: str) -> str:
    """Return the lines of one stage of the Dockerfile."""
    return next(part for part in re.split(r"(?m)^(?=FROM )", DOCKERFILE) if re.match(rf"FROM \S+ AS {name}\n", part))


def test_what_is_copied_is_there() -> None:
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", DOCKERFILE)
    assert copied
    assert all((ROOT / source).exists() for line in copied for source in line.split())


def test_every_extra_that_is_installed_is_one() -> None:
    (extras,) = re.findall(r"(?m)^ARG EXTRAS=(\S+)", DOCKERFILE)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_the_gpu_worker_has_its_extra_but_for_the_image_s_own_tensorrt() -> None:
    wanted = [part for part in PROJECT["optional-dependencies"]["tensorrt"] if not part.startswith("tensorrt")]
    assert all(f'"{part}"' in stage("gpu-worker") for part in wanted)
    assert "[tensorrt]" not in stage("gpu-worker")


def test_the_gpu_worker_asks_for_no_package_that_nvidia_s_image_lacks() -> None:
    # Ubuntu's Python has no ensurepip without its package python3-venv; the image's pip serves the environment as well.
    assert re.search(r"-m venv (?=.*--without-pip)(?=.*--system-site-packages)", stage("gpu-worker"))


def test_services_are_built_from_stages_that_are_there() -> None:
    targets = [build["target"] for service in COMPOSE["services"].values() if isinstance(build := service.get("build"), dict)]
    assert targets == ["gpu-worker"]
    assert all(stage(target) for target in targets)
    assert COMPOSE["services"]["gpu-worker"]["profiles"] == ["gpu"]


def test_commands_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r'(?m)^CMD \["enginesmith", "(\w+)"', DOCKERFILE)
    assert len(commands) == DOCKERFILE.count("\nCMD ") > 0
    for command in commands:
        assert run_command([command, "--help"]) == 0
        assert "Usage" in capsys.readouterr().out


def test_no_service_runs_as_root_or_where_it_cannot_write() -> None:
    for part in (stage("gpu-worker"), DOCKERFILE.rsplit("FROM ", 1)[1]):
        assert re.search(r"useradd .*enginesmith && mkdir /data && chown enginesmith /data", part)
        assert part.index("\nUSER enginesmith") < part.index("\nCMD")
        assert "ENGINESMITH_DATA=/data" in part
