"""TensorRT's cache text, in and out."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ModelTensorNameUnsafe, Problem, TableProblem, TableScaleInvalid, UnsupportedOption
from app.quant.table import scales_from_table, table_from_scales
from app.quant.table_lines import MAX_CACHE_BYTES
from app.quant.trt_cache import format_trt_cache, format_trt_version, parse_trt_cache

ORACLE = Path(__file__).parents[1] / "oracle"
HEADER = b"TRT-100600-EntropyCalibration2\n"


@pytest.mark.parametrize("name", ["mnist-entropy2", "mnist-minmax", "mnist-entropy"])
def test_tensorrts_own_caches_round_trip_to_the_byte(name):
    content = (ORACLE / f"{name}.cache").read_bytes()
    cache = parse_trt_cache(content)
    assert format_trt_cache(cache.scales, cache.version, cache.algorithm).encode() == content


def test_parsed_values():
    cache = parse_trt_cache((ORACLE / "mnist-entropy2.cache").read_bytes())
    assert (cache.version, cache.algorithm, len(cache.scales)) == ("100600", "EntropyCalibration2", 20)
    assert cache.scales["input"] == np.array([0x3C008912], ">u4").view(">f4")[0]


@pytest.mark.parametrize(
    ("version", "printed"),
    [("10.6.0", "100600"), ("8.6.1", "8601"), ("10.15.0", "101500"), ("7.2.3.4", "7203"), ("100600", "100600")],
)
def test_versions(version, printed):
    assert format_trt_version(version) == printed
    assert format_trt_cache({}, version, "MinMaxCalibration") == f"TRT-{printed}-MinMaxCalibration\n"


@pytest.mark.parametrize("version", ["10", "10.6", "v10.6.0", "10.6.0\n", "10.6.x", "", "-1"])
def test_bad_versions(version):
    with pytest.raises(UnsupportedOption):
        format_trt_cache({}, version)


@pytest.mark.parametrize("algorithm", ["Entropy\nx: 3f800000", "Foo", "", "entropycalibration2"])
def test_bad_algorithm(algorithm):
    with pytest.raises(UnsupportedOption, match="EntropyCalibration, EntropyCalibration2, MinMaxCalibration"):
        format_trt_cache({}, "10.6.0", algorithm)


def test_the_name_ends_at_the_last_colon_and_crlf_is_taken():
    content = b"TRT-8601-MinMaxCalibration\r\nmodel:0/conv: 3f800000\r\nb c :3F000000\r\n"
    for marked in (content, b"\xef\xbb\xbf" + content):  # editors on Windows put a mark in front
        assert parse_trt_cache(marked).scales == {"model:0/conv": 1.0, "b c ": 0.5}


@pytest.mark.parametrize(
    "body",
    [
        b"x: 3f80000",
        b"x: 3f8000000",
        b"x: 0x3f8000",
        b"x: +3f80000",
        b"x:  3f800000",
        b"x: 3f800000 ",
        b"x 3f800000",
        b": 3f800000",
        b" : 3f800000",
        b"x: 3f800000\nx: 3f000000",
        b"x: 3f800000\n\ny: 3f800000",
        b"x\x00: 3f800000",
        b"x\x1b[31m: 3f800000",
        "\u202ex: 3f800000".encode(),
        b"\xff: 3f800000",
    ],
)
def test_bad_lines_are_refused(body):
    with pytest.raises(TableProblem):
        parse_trt_cache(HEADER + body + b"\n")


def test_a_scale_of_zero_as_tensorrt_prints_it_is_none():
    cache = parse_trt_cache(HEADER + b"dead: 0\nlive: 3f800000\nbias_output: 00000000\n")
    assert (cache.scales, cache.zeros) == ({"live": 1.0}, ("dead", "bias_output"))
    with pytest.raises(TableProblem, match="dead is listed twice"):
        parse_trt_cache(HEADER + b"dead: 0\ndead: 3f800000\n")


@pytest.mark.parametrize("digits", "80000000 bf800000 7f800000 ff800000 7fc00000 00000001 007fffff 7f000000".split())
def test_bad_scales_are_refused_by_name(digits):
    with pytest.raises(TableScaleInvalid, match="conv1"):
        parse_trt_cache(HEADER + f"conv1: {digits}\n".encode())


def test_the_smallest_scale_is_the_smallest_normal_number():
    cache = parse_trt_cache(HEADER + b"conv1: 00800000\n")
    assert scales_from_table(table_from_scales(cache.scales)) == {"conv1": np.finfo(np.float32).tiny}


@pytest.mark.parametrize(
    "header", [b"", b"\n", b"x: 3f800000\n", b"TRT--X\n", b"TRT-1-\n", b"TRT-1-a b\n", b"\xef\xbb\xbf" * 2 + HEADER]
)
def test_bad_headers(header):
    with pytest.raises(TableProblem):
        parse_trt_cache(header)


def test_too_large():
    with pytest.raises(TableProblem, match="at most"):
        parse_trt_cache(HEADER + b" " * MAX_CACHE_BYTES)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(content):
    for candidate in (content, HEADER + content):
        with contextlib.suppress(Problem):
            parse_trt_cache(candidate)


name_text = st.text(min_size=1, max_size=20).filter(lambda name: name.strip() and name.isprintable())
scale_value = st.floats(2.0**-100, 2.0**39, width=32)


@given(st.dictionaries(name_text, scale_value, max_size=8))
def test_what_is_written_is_read_back(scales):
    assert parse_trt_cache(format_trt_cache(scales).encode()).scales == scales


@pytest.mark.parametrize("name", ["", " ", "a\nb: 3f800000", "a\x1b", "a\u2028b"])
def test_unsafe_names_are_not_written(name):
    with pytest.raises(ModelTensorNameUnsafe):
        format_trt_cache({name: 1.0})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales_are_not_written(scale):
    with pytest.raises(TableScaleInvalid):
        format_trt_cache({"x": scale})
