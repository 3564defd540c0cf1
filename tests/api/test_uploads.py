"""Uploads over HTTP: raw and form, digests, limits, what is refused; a refused upload leaves nothing behind."""

import hashlib
import io
import socket
import tarfile
import zipfile
from base64 import b64encode
from pathlib import Path

import httpx
import pytest
from backports import zstd

from tests.running import CALIBRATION, MODEL, TEST_DIGITS, RunningServer


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """Check an RFC 9457 problem document, and return it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, status, code), document
    assert document["type"] == f"urn:enginesmith:problem:{code}"
    assert document["title"]
    assert document["detail"]
    return document


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_model_document(http: httpx.Client) -> None:
    first = http.put("/v1/models/upload-1", content=MODEL.read_bytes())
    assert first.status_code == 201
    document = first.json()
    assert document["digest"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert document["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 1, 28, 28]}]
    assert [output["name"] for output in document["outputs"]] == ["output"]
    again = http.put("/v1/models/upload-1", content=MODEL.read_bytes())
    assert (again.status_code, again.json()) == (200, document)
    assert http.get("/v1/models/upload-1").json() == document
    assert http.get(f"/v1/models/{document['id']}").json() == document


def test_dataset_digest_is_independent_of_archive_kind_and_order(http: httpx.Client) -> None:
    files = dict(list(members(TEST_DIGITS).items())[:40])
    backwards = dict(reversed(files.items()))
    bodies = {
        "zip": zip_of(files),
        "tar": tar_of(backwards),
        "tar.gz": tar_of(files, "w:gz"),
        "tar.zst": zstd.compress(tar_of(backwards)),
    }
    digests = set()
    for number, body in enumerate(bodies.values()):
        response = http.put(f"/v1/datasets/kind-{number}", content=body)
        assert response.status_code == 201, response.text
        digests.add(response.json()["digest"])
    assert len(digests) == 1


def test_labels_come_from_folders(http: httpx.Client) -> None:
    document = http.put("/v1/datasets/labelled", content=TEST_DIGITS.read_bytes()).json()
    assert document["images"] == 1500
    assert list(document["labels"]) == [str(digit) for digit in range(10)]
    assert sum(document["labels"].values()) == 1500


def test_patch_adds_and_replaces(http: httpx.Client) -> None:
    files = list(members(CALIBRATION).items())[:30]
    old = http.put("/v1/datasets/growing", content=zip_of(dict(files[:20]))).json()
    replaced = {files[0][0]: files[29][1]}
    response = http.patch("/v1/datasets/growing", content=zip_of(dict(files[20:]) | replaced))
    assert response.status_code == 200
    assert response.json()["images"] == 30
    whole = http.put("/v1/datasets/at-once", content=tar_of(dict(files) | replaced)).json()
    assert response.json()["digest"] == whole["digest"] != old["digest"]
    assert http.get("/v1/datasets/growing").json()["id"] == response.json()["id"]
    assert_problem(http.patch("/v1/datasets/nobody", content=zip_of(replaced)), 404, "not-found")


def test_multipart_form(http: httpx.Client) -> None:
    with MODEL.open("rb") as file:
        response = http.post("/v1/models", data={"name": "from-form"}, files={"file": ("../../etc/x.onnx", file)})
    assert response.status_code == 201, response.text
    assert response.json()["name"] == "from-form"
    with CALIBRATION.open("rb") as file:
        response = http.post("/v1/datasets", data={"name": "from-form"}, files={"file": file})
    assert response.status_code == 201, response.text
    assert_problem(http.post("/v1/models", data={"name": "x"}), 415, "unsupported-media-type")
    assert_problem(http.post("/v1/models", files={"other": b"x"}), 400, "invalid-request")
    assert_problem(http.post("/v1/models", data={"name": "x"}, files={"name": b"x"}), 400, "invalid-request")


@pytest.mark.parametrize("name", ["UPPER", ".dot", "-dash", "a" * 101, "mdl_" + "a" * 24, "a b", "ä"])
def test_bad_names(http: httpx.Client, name: str) -> None:
    assert_problem(http.put(f"/v1/models/{name}", content=b""), 422, "name-invalid")


def test_declared_digests(http: httpx.Client) -> None:
    body = MODEL.read_bytes()
    right = hashlib.sha256(body)
    for header in (
        {"X-Content-SHA256": right.hexdigest()},
        {"Content-Digest": f"sha-256=:{b64encode(right.digest()).decode()}:"},
    ):
        assert http.put("/v1/models/digested", content=body, headers=header).status_code in (200, 201)
    wrong = hashlib.sha256(b"other").hexdigest()
    assert_problem(http.put("/v1/models/wrong", content=body, headers={"X-Content-SHA256": wrong}), 422, "digest-mismatch")
    assert_problem(http.get("/v1/models/wrong"), 404, "not-found")
    for value in (right.hexdigest().upper(), right.hexdigest()[:-1], "x"):
        assert_problem(http.put("/v1/models/wrong", content=body, headers={"X-Content-SHA256": value}), 400, "invalid-digest")
    assert_problem(http.put("/v1/models/wrong", content=body, headers={"Content-Digest": "sha-256=:x:"}), 400, "invalid-digest")


def test_encoded_body_is_refused(http: httpx.Client) -> None:
    response = http.put("/v1/models/gz", content=b"x", headers={"Content-Encoding": "gzip"})
    assert_problem(response, 415, "unsupported-content-encoding")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "model-invalid"),
        (b"not an onnx file at all", "model-invalid"),
        (MODEL.read_bytes()[:30_000], "model-invalid"),
        (CALIBRATION.read_bytes(), "model-archive-invalid"),
    ],
    ids=["empty", "text", "truncated", "archive without model"],
)
def test_bad_models(http: httpx.Client, content: bytes, code: str) -> None:
    assert_problem(http.put("/v1/models/bad", content=content), 422, code)
    assert_problem(http.get("/v1/models/bad"), 404, "not-found")


def test_bad_archives(http: httpx.Client) -> None:
    png = next(iter(members(CALIBRATION).values()))
    cases = [
        (b"", "archive-invalid"),
        (b"no archive at all, just text", "archive-invalid"),
        (CALIBRATION.read_bytes()[:50_000], "archive-invalid"),
        (zip_of({}), "archive-invalid"),
        (zip_of({".DS_Store": b"x", "__MACOSX/._a.png": b"x"}), "dataset-empty"),
        (zip_of({"../x.png": png}), "archive-unsafe-path"),
        (tar_of({"/etc/x.png": png}), "archive-unsafe-path"),
        (zip_of({"readme.txt": b"hello"}), "image-unsupported-format"),
        (zip_of({"a.png": png, "b.jpg": b"text that is called jpg"}), "image-unsupported-format"),
        (zip_of({"zeros.png": png + bytes(65 << 20)}), "archive-too-large"),
    ]
    for body, code in cases:
        document = assert_problem(http.put("/v1/datasets/bad", content=body), 422, code)
        assert document["detail"]
    assert_problem(http.get("/v1/datasets/bad"), 404, "not-found")


def test_refused_uploads_leave_no_file(server: RunningServer, http: httpx.Client) -> None:
    before = {path for path in (server.data / "blobs").rglob("*") if path.is_file()}
    for path, body in (("/v1/models/bad", b"x"), ("/v1/datasets/bad", zip_of({"x.txt": b"x"}))):
        assert http.put(path, content=body).status_code == 422
    assert {path for path in (server.data / "blobs").rglob("*") if path.is_file()} == before
    assert not list((server.data / "tmp").glob("upload-*"))


def test_truncated_body_stores_nothing(server: RunningServer, http: httpx.Client) -> None:
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(b"PUT /v1/models/cut HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\n" + bytes(1000))
    assert_problem(http.get("/v1/models/cut"), 404, "not-found")


def test_too_large_is_refused_before_the_body(server: RunningServer) -> None:
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80), timeout=5) as connection:
        connection.sendall(b"PUT /v1/models/big HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1099511627776\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_lists_are_paged(http: httpx.Client) -> None:
    files = list(members(CALIBRATION).items())
    for number in range(3):
        http.put(f"/v1/datasets/page-{number}", content=zip_of(dict(files[number : number + 1])))
    seen, cursor = [], None
    while True:
        page = http.get("/v1/datasets", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) >= 3
    assert_problem(http.get("/v1/datasets", params={"cursor": "nonsense"}), 400, "invalid-request")
