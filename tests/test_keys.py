"""Keys: what changes a result changes them, what does not does not; their values stay for ever."""

from typing import Any

import pytest
from pydantic import ValidationError

from app import keys
from app.resolved import ResolvedDataset, ResolvedJob, ResolvedModel, Tools
from app.spec import JobSpec, QuantizeSpec

TOOLS = Tools(observer="onnxruntime 1", decoder="pillow 1", judge="onnxruntime 1", backend="onnxruntime 1")
MODEL = ResolvedModel(id="mdl_1", name="m", digest="a" * 64, files=(), inputs=())
DATASET = ResolvedDataset(id="dst_1", name="d", digest="b" * 64, listing="c" * 64, packs=(), images=9, labelled=False)


#: Facts of tables.
OWN = {"observation": {"dataset": DATASET.digest, "listing": "c" * 64}}
IMPORTED = {"format": "tensorrt"}
OTHER = {"observation": {"dataset": "e" * 64, "listing": "c" * 64}}


def job(change: dict[str, Any] | None = None, **parts: Any) -> ResolvedJob:
    spec = JobSpec.model_validate({"model": "m", "dataset": "d"} | (change or {}))
    given = {"model": MODEL, "dataset": DATASET, "judge_dataset": None, "tools": TOOLS} | parts
    return ResolvedJob(spec=spec, **given)


def test_values_never_change() -> None:
    assert keys.observation_key(job()) == "b07a5b9fa6aea2403c8905eab58c7d66df2ea4e97c2baa7aa7719ffdd918c134"
    assert keys.key_from(b=1, a=[1.0, None], c=None) == keys.key_from(a=[1, None], b=1)


def test_dataset_digest_is_of_a_set() -> None:
    files = [("b/2.png", "2" * 64), ("a/1.png", "1" * 64)]
    assert keys.dataset_digest(files) == keys.dataset_digest(reversed(files))
    assert keys.dataset_digest(files) != keys.dataset_digest([("b/2.png", "1" * 64), ("a/1.png", "2" * 64)])


@pytest.mark.parametrize(
    "change",
    [
        {"preprocess": {"mean": [0.5]}},
        {"preprocess": {"exif": True}},
        {"calibration": {"grid": "tensorrt"}},
        {"calibration": {"max_images": 5}},
        {"calibration": {"observe": "all"}},
        {"calibration": {"on_bad_image": "skip", "max_bad_fraction": 0.1}},
    ],
)
def test_what_changes_the_histograms_is_in_their_key(change: dict[str, Any]) -> None:
    assert keys.observation_key(job(change)) != keys.observation_key(job())
    assert keys.table_key(job(change)) != keys.table_key(job())


@pytest.mark.parametrize(
    "change",
    [
        {"priority": 7, "wait_for_worker_seconds": 3},
        {"calibration": {"method": "entropy"}},
        {"calibration": {"batch_size": 50}},
        {"calibration": {"percentile": 99.0}},
        {"quantize": {"exclude": ["x"]}},
        {"engine": None},
        {"judge": {"images": 3}},
        {"preprocess": {"scale": 1 / 255}},
    ],
)
def test_what_does_not_change_them_is_not(change: dict[str, Any]) -> None:
    assert keys.observation_key(job(change)) == keys.observation_key(job())


def test_batch_size_matters_on_tensorrt_s_grid() -> None:
    sizes = [job({"calibration": {"grid": "tensorrt", "batch_size": size}}) for size in (8, 50)]
    assert keys.observation_key(sizes[0]) != keys.observation_key(sizes[1])


def test_tools_and_content_are_in_the_keys() -> None:
    other = DATASET.model_copy(update={"digest": "d" * 64})
    named = DATASET.model_copy(update={"name": "other", "id": "dst_2"})
    assert keys.observation_key(job(dataset=other)) != keys.observation_key(job())
    assert keys.observation_key(job(dataset=named)) == keys.observation_key(job())
    newer = TOOLS.model_copy(update={"observer": "onnxruntime 2"})
    assert keys.observation_key(job(tools=newer)) != keys.observation_key(job())
    backend = TOOLS.model_copy(update={"backend": "onnxruntime 2"})
    assert keys.engine_key(job(tools=backend), "t") != keys.engine_key(job(), "t")


def test_an_implicit_engine_depends_on_the_constants_of_its_cache() -> None:
    implicit = job({"engine": {"backend": "tensorrt", "quantization": "implicit"}})
    told: list[dict[str, Any]] = [{}, {"native_cache": "a" * 64}, {"native_cache": "b" * 64}, {"kept": {"w_output": 1.0}}]
    found = {keys.engine_key(implicit, "t", facts) for facts in told}
    assert len(found) == len(told)
    assert keys.engine_key(implicit, "t", {"kept": {}}) == keys.engine_key(implicit, "t")
    explicit = job({"engine": {"backend": "tensorrt"}})
    assert {keys.engine_key(explicit, "t", facts) for facts in told} == {keys.engine_key(explicit, "t")}


def test_auto_depends_on_the_judge_and_methods_do_not() -> None:
    assert keys.table_key(job({"judge": {"images": 3}})) != keys.table_key(job())
    minmax = {"calibration": {"method": "minmax"}}
    assert keys.table_key(job(minmax | {"judge": {"images": 3}})) == keys.table_key(job(minmax))
    percentile = {"calibration": {"method": "percentile", "percentile": 99.0}}
    assert keys.table_key(job(percentile)) != keys.table_key(job({"calibration": {"method": "percentile"}}))


def test_a_named_table_has_no_part_in_the_calibration_and_is_judged_on_all_images() -> None:
    named = job({"table": "tbl_1"})
    assert keys.observation_key(named) == keys.observation_key(job())
    assert keys.engine_key(named, "t") == keys.engine_key(job(), "t")
    assert keys.judge_key(named, "e", OWN) != keys.judge_key(job(), "e", OWN)
    assert keys.job_key(named) != keys.job_key(job())


def test_single_flight_ignores_priority_and_waiting() -> None:
    assert keys.job_key(job({"priority": 7, "wait_for_worker_seconds": 3})) == keys.job_key(job())
    by_name = {"judge": {"dataset": "one-name"}}
    assert keys.job_key(job(by_name, judge_dataset=DATASET)) == keys.job_key(
        job({"judge": {"dataset": "other"}}, judge_dataset=DATASET)
    )
    assert keys.job_key(job({"judge": {"gate": {"min_agreement": 0.9}}})) != keys.job_key(job())


def test_new_options_leave_old_keys_as_they_were() -> None:
    assert keys.quantized_key("m", "t", QuantizeSpec()) == keys.key_from(
        model="m", table="t", quantize={}, quantizer=keys.QUANTIZER_VERSION
    )
    plain = {"quantize": {"bias_correction": False, "weight_rounding": "nearest"}, "judge": {"sensitivity": False}}
    for key in (keys.table_key, keys.job_key):
        assert key(job(plain)) == key(job())
    assert keys.judge_key(job(plain), "e", OWN) == keys.key_from(engine="e", selection=keys.judge_selection(job()))


@pytest.mark.parametrize("tuned", [{"bias_correction": True}, {"weight_rounding": "gptq"}])
def test_what_is_tuned_depends_on_the_images(tuned: dict[str, Any]) -> None:
    one, other = job({"quantize": tuned}), job({"quantize": tuned}, dataset=DATASET.model_copy(update={"digest": "d" * 64}))
    assert keys.engine_key(one, "t") != keys.engine_key(other, "t")
    assert keys.engine_key(one, "t") != keys.engine_key(job(), "t")
    spec = one.spec.quantize
    assert keys.quantized_key("m", "t", spec, keys.tuned_facts(one)) != keys.quantized_key(
        "m", "t", spec, keys.tuned_facts(other)
    )


def test_what_is_tuned_depends_on_where_the_calibration_stopped() -> None:
    stopped = [
        {"observation": OWN["observation"] | {"converge": {"fraction": 0.1}, "max_images": most}, "converge": {"taken": taken}}
        for most, taken in ((None, 32), (None, 64), (100, 64))
    ]
    tuned = job({"quantize": {"bias_correction": True}})
    assert len({keys.engine_key(tuned, "t", facts) for facts in (OWN, *stopped)}) == 4
    assert len({keys.exclusion_key(tuned, "t", facts) for facts in (OWN, *stopped)}) == 4
    assert keys.engine_key(tuned, "t", OTHER | {"converge": {"taken": 32}}) == keys.engine_key(tuned, "t", OWN)
    assert {keys.engine_key(job(), "t", facts) for facts in stopped} == {keys.engine_key(job(), "t")}


def test_auto_is_resolved_before_the_engine_s_key() -> None:
    auto = job({"quantize": {"exclude": ["auto", "b"]}})
    named = job({"quantize": {"exclude": ["a", "b"]}})
    assert keys.engine_key(auto.excluding(["a"], "found"), "t") == keys.engine_key(named, "t")
    assert keys.table_key(auto) == keys.table_key(job({"quantize": {"exclude": ["b"]}}))
    assert keys.judge_key(auto.excluding(["a"], "found"), "e", OWN) != keys.judge_key(named, "e", OWN)
    changes: list[dict[str, Any]] = [
        {"quantize": {"exclude": "auto", "max_excluded": 0.1}},
        {"quantize": {"exclude": "auto"}, "judge": {"gate": {"min_agreement": 0.9}}},
        {"quantize": {"exclude": "auto"}, "judge": {"images": 9}},
        {"quantize": {"exclude": "auto", "bias_correction": True}},
    ]
    found = {keys.exclusion_key(job(change), "t", OWN) for change in [{"quantize": {"exclude": "auto"}}, *changes]}
    assert len(found) == 5


def test_exclude_is_names_or_auto_or_both() -> None:
    assert QuantizeSpec.model_validate({"exclude": "auto"}).exclude == ("auto",)
    both = QuantizeSpec.model_validate({"exclude": ["b", "auto"], "max_excluded": 0.1})
    assert both.excludes_automatically
    assert both.excluding(["a"]) == QuantizeSpec(exclude=("a", "b"))
    for wrong in ({"exclude": "b"}, {"exclude": ["b"], "max_excluded": 0.1}, {"exclude": "auto", "max_excluded": 0}):
        with pytest.raises(ValidationError):
            QuantizeSpec.model_validate(wrong)


def test_a_report_depends_on_what_is_known_of_the_table_s_images() -> None:
    for named in (job({"table": "tbl_1"}), job({"allow_imported": True})):
        found = {keys.judge_key(named, "e", table) for table in (OWN, OTHER, IMPORTED)}
        assert len(found) == 3
        apart = named.model_copy(update={"judge_dataset": DATASET})
        assert len({keys.judge_key(apart, "e", table) for table in (OWN, OTHER, IMPORTED)}) == 1
    auto = job({"quantize": {"exclude": "auto"}})
    assert keys.exclusion_key(auto, "t", OWN) != keys.exclusion_key(auto, "t", IMPORTED)


def test_sensitivity_depends_on_the_calibration_images_that_it_may_be_measured_on() -> None:
    def key(sensitivity: bool, max_images: int | None) -> str:
        change = {"judge": {"sensitivity": sensitivity}, "calibration": {"max_images": max_images}}
        return keys.judge_key(job(change, judge_dataset=DATASET.model_copy(update={"digest": "d" * 64})), "e", OWN)

    assert key(False, 5) == key(False, 6)
    assert key(True, 5) != key(True, 6)


def test_tuning_runs_on_onnx_runtime_whoever_observed() -> None:
    tuned = {"quantize": {"bias_correction": True}}
    assert "runtime" not in (keys.tuned_facts(job(tuned)) or {})
    gpu = TOOLS.model_copy(update={"observer": "tensorrt 10.6 sm90"})
    newer = gpu.model_copy(update={"judge": "onnxruntime 2"})
    one, other = (job(tuned, tools=tools) for tools in (gpu, newer))
    assert keys.observation_key(one) == keys.observation_key(other)
    assert keys.engine_key(one, "t") != keys.engine_key(other, "t")
    assert keys.engine_key(job(tools=gpu), "t") == keys.engine_key(job(tools=newer), "t")
    plain = job({"judge": {"float_type": "fp16"}})
    assert keys.judge_key(plain, "e", OWN) != keys.judge_key(job(), "e", OWN)


def test_how_a_model_is_equalized_is_in_the_keys_of_what_is_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(equalize: bool) -> set[str]:
        even = job({"quantize": {"equalize": equalize}})
        return {keys.quantized_key(MODEL.digest, "t" * 64, even.spec.quantize), keys.engine_key(even, "t" * 64, OWN)}

    before = {equalize: made(equalize) for equalize in (False, True)}
    monkeypatch.setattr(keys, "EQUALIZER", "another")
    assert made(False) == before[False]
    assert not made(True) & before[True]
