"""Tables of other tools: what the bytes are is told from the bytes, and bad ones are refused by name."""

import codecs
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import CalibrationCacheEncoder, CalibrationMethod, TensorsData
from onnxruntime.quantization.quant_utils import write_calibration_table

from app.errors import Problem, TableProblem, TableScaleInvalid
from app.quant.foreign import MAX_ENTRIES, MAX_TABLE_BYTES, parse_foreign
from app.quant.ort_table import format_ort_table, parse_ort_table
from app.quant.table import scales_from_table, table_from_scales, table_to_json
from app.quant.table_lines import MAX_CACHE_BYTES
from app.quant.trt_cache import format_trt_cache

names = st.text(min_size=1, max_size=20).filter(lambda name: bool(name.strip()) and name.isprintable())
tables = st.dictionaries(names, st.floats(2.0**-100, 2.0**39, width=32), min_size=1, max_size=8)
headers = st.sampled_from(["5.0.2", "5.1.5", "6.0.1", "7.2.3", "8.6.1", "10.0.1", "10.15.0"])
algorithms = st.sampled_from(
    ["EntropyCalibration", "EntropyCalibration2", "MinMaxCalibration", "LegacyCalibration", "QuantileCalibration"]
)


def ranges(method: CalibrationMethod = CalibrationMethod.MinMax) -> TensorsData:
    """Return ONNX Runtime's own object: a range, one that is larger below zero, and one by channel."""
    low, high = np.array(-1.5, np.float32), np.array(1.0, np.float32)
    channels = (np.array([-1.0, -3.0], np.float32), np.array([2.0, 0.5], np.float32))
    return TensorsData(method, {"a": (np.float32(0) + high * 0, high), "b:0": (low, high), "c": channels})


@given(tables, headers, algorithms)
def test_trt_text_of_any_header_comes_back_bit_for_bit(scales: dict[str, float], version: str, algorithm: str) -> None:
    text = format_trt_cache(scales, version, algorithm)
    for content in (text, text.replace("\n", "\r\n"), text.rstrip("\n")):
        read = parse_foreign(content.encode())
        assert scales_from_table(read.table) == scales
        assert (read.format, read.header) == ("trt", text.split("\n")[0])
        assert read.table.method == algorithm


@given(tables)
def test_onnxruntimes_table_and_ours_come_back_bit_for_bit(scales: dict[str, float]) -> None:
    wanted = {name: np.float32(scale) for name, scale in scales.items()}
    assert scales_from_table(parse_foreign(format_ort_table(wanted)).table) == wanted
    text = json.dumps(table_to_json(table_from_scales(wanted)))
    assert scales_from_table(parse_foreign(text.encode()).table) == wanted


def test_what_onnxruntime_itself_writes_is_read(tmp_path: Path) -> None:
    whole = parse_foreign(json.dumps(ranges(), cls=CalibrationCacheEncoder).encode())
    assert (whole.format, whole.table.amax) == ("onnxruntime", {"a": 1.0, "b:0": 1.5, "c": 3.0})
    write_calibration_table({name: entry for name, entry in ranges().data.items() if name != "c"}, str(tmp_path))
    assert parse_foreign((tmp_path / "calibration.json").read_bytes()).table.amax == {"a": 1.0, "b:0": 1.5}
    for name in ("calibration.flatbuffers", "calibration.cache"):  # these keep the larger end of a range, not the magnitude
        read = parse_foreign((tmp_path / name).read_bytes())
        assert (read.format, read.table.amax) == ("onnxruntime", {"a": 1.0, "b:0": 1.0})
    assert parse_foreign(b'{"a": [-2.0, 1.0]}').table.amax == {"a": 2.0}


@given(tables)
def test_the_text_that_onnxruntime_writes_is_read_like_its_flatbuffers(scales: dict[str, float]) -> None:
    scales = {f"t{name}": scale for name, scale in scales.items()}  # what begins with a brace is taken for JSON
    ends: dict[str, Any] = {name: (np.array(-scale, np.float32), np.array(scale, np.float32)) for name, scale in scales.items()}
    with TemporaryDirectory() as folder:
        write_calibration_table(TensorsData(CalibrationMethod.MinMax, ends).data, folder)
        text, binary = (Path(folder, f"calibration.{kind}").read_bytes() for kind in ("cache", "flatbuffers"))
    read = parse_foreign(text)
    assert read.table.amax == parse_foreign(binary).table.amax == scales
    assert parse_foreign(codecs.BOM_UTF8 + text.replace(b"\n", b"\r\n")) == read


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a 1.0\na 2.0\n", "line 2: a is listed twice"),
        ("a 1.0\nb\tc 2.0\n", "line 2 holds control"),
        ("a\x1b 1.0\n", "line 1 holds control"),
        ("a 1.0\n\nb 2.0\n", "line 2 is not"),
        ("a 1.0\nb: 3f800000\n", "line 2 is not"),
        ("a 1.0\nb 1e400000\n", "line 2 is not"),
        ("a 1.0\n 2.0\n", "line 2 is not"),
        ("a 1.0\nb 0.2", "line 2 does not end"),
        ("a 1.0\nb", "line 2 is not"),
        ("a 1\n", "first line"),
        ("a: 40000000\n", "first line"),
        ("TRT-8601-MinMaxCalibration a: 3f800000 b: 3f800000\n", "line ends lost"),
    ],
)
def test_what_is_no_text_of_onnxruntime_is_refused_by_line(content: str, words: str) -> None:
    with pytest.raises(TableProblem, match=words):
        parse_foreign(content.encode())


def test_text_of_onnxruntime_is_utf8_and_bounded() -> None:
    with pytest.raises(TableProblem, match="byte 6 is not UTF-8"):
        parse_foreign(b"a 1.0\n\xff 1.0\n")
    with pytest.raises(TableProblem, match="at most"):
        parse_foreign(b"a 1.0\n" + b"x" * MAX_CACHE_BYTES)
    spaces = b"a " * (MAX_CACHE_BYTES // 2)  # one long line takes no longer than many
    with pytest.raises(TableProblem, match="first line"):
        parse_foreign(spaces)


@pytest.mark.parametrize("bad", ["-1.0", "nan", "inf", "-inf", "1e-50", "1e+300"])
def test_bad_numbers_in_text_of_onnxruntime_are_refused_by_name(bad: str) -> None:
    for content in (f"conv1 {bad}\nok 1.0\n", f"ok 1.0\nconv1 {bad}\n"):
        with pytest.raises(TableScaleInvalid, match="conv1"):
            parse_foreign(content.encode())


@pytest.mark.parametrize("content", [b'{"input_scale": 0.5}', b"TRT-8601-MinMaxCalibration\r\ninput: 3f000000\r\n"])
def test_a_mark_in_front_makes_no_difference(content: bytes) -> None:
    assert parse_foreign(codecs.BOM_UTF8 + content) == parse_foreign(content)


def test_scales_named_like_modelopts_are_read() -> None:
    read = parse_foreign(b'{"input_scale": 0.25, "conv/out_scale": 0.5}')
    assert (read.format, scales_from_table(read.table)) == ("modelopt", {"input": 0.25, "conv/out": 0.5})
    with pytest.raises(TableProblem, match="PyTorch module"):
        parse_foreign(b'{"conv1.input_quantizer._scale": 1.0}')


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff\xfe\x00",
        b"\x00" * 3,
        b"\x00" * 64,
        b'{"a": 1.0}',
        b'{"a_scale": 1.0, "a_scale": 1.0}',
        b'{"a\\nb_scale": 1.0}',
        b'{" _scale": 1.0}',
        b'{"lowest": 1, "highest": "x"}',
        b'{"' + b"n" * 5000 + b'_scale": 1.0}',
        b"TRT-8601-EntropyCalibration2\n",
        b"TRT-8601-EntropyCalibration2\nx: 3f80",
        b"TRT-8601-EntropyCalibration2\nx\ty: 3f800000",
        b"TRT-8601-EntropyCalibration2\nx: 3f800000\nx: 3f800000",
        b"1\nconv1: 3f800000\n",
    ],
)
def test_what_is_no_table_is_refused(content: bytes) -> None:
    with pytest.raises(TableProblem):
        parse_foreign(content)


def test_a_range_of_zero_is_none_in_the_tables_of_others() -> None:
    cache = b"TRT-8601-MinMaxCalibration\nok: 3f800000\ndead: 0\n"
    texts = [cache, b'{"ok_scale": 1, "dead_scale": 0}', b'{"ok": [-1, 1], "dead": [0, 0]}', b"ok 127.0\ndead 0.0\n"]
    for read in map(parse_foreign, texts):
        assert (list(read.table.amax), read.zeros) == (["ok"], ("dead",))
    own = b'{"format": "enginesmith-table-1", "amax": {"ok": 1, "dead": 0}}'
    with pytest.raises(TableScaleInvalid, match="dead"):  # ours lists such a tensor as dead
        parse_foreign(own)


@pytest.mark.parametrize("bad", ["-1", "1e-44", "NaN", "Infinity", "-Infinity", "1e400", "9" * 400])
def test_bad_numbers_are_refused_by_name_in_every_format(bad: str) -> None:
    texts = [f'{{"ok_scale": 1, "conv1_scale": {bad}}}', f'{{"ok": [-1, 1], "conv1": [0, {bad}]}}']
    if bad == "-1":
        texts.pop()  # as the end of a range it is good
    for text in texts:
        with pytest.raises(TableScaleInvalid, match="conv1"):
            parse_foreign(text.encode())


@pytest.mark.parametrize("value", ["-1.0", "nan", "inf", "1e-50", "one"])
def test_bad_numbers_in_a_flatbuffer_are_refused_by_name(value: str) -> None:
    good = str(127 * float(np.float32(0.1)))
    content = format_ort_table({"conv1": np.float32(0.1)})
    assert good.encode() in content
    with pytest.raises(TableScaleInvalid, match="conv1"):
        parse_foreign(content.replace(good.encode(), value.ljust(len(good)).encode()))


def test_a_flatbuffer_cut_off_or_damaged_anywhere_is_refused_or_read() -> None:
    content = format_ort_table({f"tensor-{number}": np.float32(number + 1) for number in range(6)})
    whole = parse_ort_table(content)
    for end in range(len(content) - 4):  # the last bytes only fill up
        with pytest.raises(TableProblem):
            parse_ort_table(content[:end])
    assert len(whole) == 6
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[random.integers(len(damaged))] = random.integers(256)
        outcome(bytes(damaged))


def test_a_name_twice_in_a_flatbuffer_is_refused() -> None:
    content = format_ort_table({"conv1": np.float32(1), "conv2": np.float32(1)}).replace(b"conv2", b"conv1")
    with pytest.raises(TableProblem, match="twice"):
        parse_foreign(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for candidate in (content, b"{" + content, b"\x00" + content, b"a 1.0\n" + content):
        outcome(candidate)


def outcome(content: bytes) -> Any:
    """Return what is read, or the problem; anything else fails the test."""
    try:
        return parse_foreign(content)
    except Problem as problem:
        return problem


def test_size_is_bounded() -> None:
    with pytest.raises(TableProblem, match="at most"):
        parse_foreign(b" " * (MAX_TABLE_BYTES + 1))
    with pytest.raises(TableProblem, match="at most"):
        parse_foreign(b"TRT-8601-EntropyCalibration2\n" + b"x" * MAX_CACHE_BYTES)
    lines = "".join(f"x{number}: 3f800000\n" for number in range(MAX_ENTRIES + 1))
    with pytest.raises(TableProblem, match="100001 tensors"):
        parse_foreign(f"TRT-8601-EntropyCalibration2\n{lines}".encode())
