"""The architecture as rules: who may import what, and how long things may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parent.parent / "app"
FILES = sorted(path for path in APP.rglob("*.py") if "_alembic" not in path.parts)
ROOMS_APART = {"inputs", "quant", "observers", "engines", "blobs", "db"}
#: The only rooms (or files) that import each of these.
HOMES = {
    "fastapi": {"api", "web", "main.py"},
    "starlette": {"api", "web", "main.py"},
    "sqlalchemy": {"db"},
    "dbos": {"jobs"},
    "onnxruntime": {"observers", "engines", "bench"},
    "tensorrt": {"cuda"},
    "tensorrt_bindings": {"cuda"},
    "tensorrt_rtx": {"engines"},
    "pycuda": {"cuda"},
    "obstore": {"blobs"},
    "PIL": {"inputs"},
    "numba": {"quant", "observers", "native"},
    "typer": {"client"},
    "rich": {"client"},
}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS, MEDIAN_FILE_LINES = 400, 60, 6, 130
MAX_BROAD_EXCEPTS = 2


def room(path: Path) -> str:
    return path.relative_to(APP).parts[0]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("package", HOMES)
def test_outside_package_has_one_home(package: str) -> None:
    strangers = [
        str(path)
        for path in FILES
        if room(path) not in HOMES[package] and package in {name.split(".")[0] for name in imports(path)}
    ]
    assert not strangers


@pytest.mark.parametrize("own", sorted(ROOMS_APART))
def test_rooms_do_not_import_one_another(own: str) -> None:
    allowed = {own} | ({"quant"} if own in ("observers", "engines") else set())
    for path in (path for path in FILES if room(path) == own):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("app.") and name.split(".")[1] in ROOMS_APART}
        assert rooms <= allowed, path


def test_arrows_never_turn_back() -> None:
    for path in FILES:
        names = set(imports(path))
        if room(path) == "worker":
            assert not any(name.startswith(("app.jobs", "app.api")) for name in names), path
        if room(path) == "jobs":
            assert not any(name.startswith("app.api") for name in names), path
        if room(path) == "client":
            # files of the user's own are compared here, without a server
            own = ("app.client", "app.spec", "app.settings", "app.main", "app.work", "app.errors", "app.bench", "app.quant")
            assert all(name.startswith(own) for name in names if name.startswith("app.")), path


def test_a_worker_loads_nothing_of_the_api() -> None:
    code = "import sys, app.work; print(*{'fastapi', 'starlette', 'uvicorn', 'app.api'} & sys.modules.keys())"
    asked = subprocess.run([sys.executable, "-c", code], cwd=APP.parent, capture_output=True, text=True, check=True)
    assert not asked.stdout.split()


def test_the_only_commit_stands_once() -> None:
    commits = [
        path for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and node.attr == "commit"
    ]
    assert commits == [APP / "db" / "database.py"]


def test_only_settings_reads_the_environment() -> None:
    readers = {
        path.name
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "environ"
    }
    assert readers == {"settings.py"}


def test_nothing_is_unpickled_or_extracted() -> None:
    for path in FILES:
        assert not {"pickle", "shelve", "marshal", "cloudpickle", "joblib"} & {name.split(".")[0] for name in imports(path)}, (
            path
        )
        called = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        assert not called & {"extractall", "extract", "allow_pickle", "register_custom_ops_library"}, path


def test_broad_excepts_stand_at_process_boundaries_alone() -> None:
    broad = [
        (path.name, node.lineno)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert len(broad) <= MAX_BROAD_EXCEPTS, broad


def test_budgets() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert lengths[-1] <= MAX_FILE_LINES
    assert lengths[len(lengths) // 2] <= MEDIAN_FILE_LINES
    for path in FILES:
        for function in functions(path):
            size = (function.end_lineno or 0) - function.lineno + 1
            assert size <= MAX_FUNCTION_LINES, (path, function.name)
            arguments = len(function.args.args) + len(function.args.kwonlyargs)
            assert arguments <= MAX_ARGUMENTS or room(path) == "client", (path, function.name)


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not {path.stem for path in FILES} & {"utils", "helpers", "misc", "common", "manager", "services"}
