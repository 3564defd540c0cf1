"""What several threads counted is, added up, what one would have counted: the definition's histogram."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.observers.collectors import MergeableCollector, Seen, histograms_of
from app.observers.counting import Located
from app.observers.parts import Parts
from app.quant.histogram import empty_side, mergeable_from_values
from app.quant.observation import Observation, observation_to_bytes

REGIONS = 2
#: Signed zeros, denormals, the widest range and small numbers, so that threads differ in signs and bin widths.
_NUMBERS = st.sampled_from([0.0, -0.0, 1e-40, -1e-40, 3.4028235e38, -3.4028235e38, 1.0, -1.0, 0.1, -0.3, 5e-7, 1e30, -1e-30])
_VALUES = st.lists(_NUMBERS | st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30)
#: Counts by thread: passes, each with the values of every region.
_THREADS = st.lists(st.lists(st.tuples(*[_VALUES] * REGIONS), max_size=3), min_size=1, max_size=3)
CLAMPS = np.tile(np.array([-np.inf, np.inf], np.float32), (REGIONS, 1))
PARTS = Parts((0, 1), ("a", "b"), ("a", "b"), CLAMPS, (0,), (0, 0))


def count(collector: MergeableCollector, arrays: list[npt.NDArray[np.float32]]) -> None:
    collector.count(Seen(0, Located(arrays, [array.size for array in arrays], CLAMPS), 0, 1))


@settings(deadline=None)
@given(_THREADS, st.sampled_from([1, 10, 1 << 31]))
def test_what_threads_counted_adds_up(threads: list[list[tuple[list[float], ...]]], spill: int) -> None:
    seen: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(REGIONS)]
    collectors = [MergeableCollector(PARTS) for _ in threads]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("app.observers.collectors._SPILL_ELEMENTS", spill)
        for collector, passes in zip(collectors, threads, strict=True):
            for regions in passes:
                arrays = [np.array(values, np.float32) for values in regions]
                count(collector, arrays)
                for region, array in enumerate(arrays):
                    seen[region].append(array)
    expected = [mergeable_from_values(np.concatenate([*arrays, np.empty(0, np.float32)])) for arrays in seen]
    for _ in range(2):  # looking at them changes nothing
        found = histograms_of(collectors)
        assert as_bytes(found) == as_bytes(expected)
        assert [histogram.negative is empty_side() for histogram in found] == [h.negative is empty_side() for h in expected]
    for collector in collectors:
        collector.clear()
    assert as_bytes(histograms_of(collectors)) == as_bytes([mergeable_from_values(np.empty(0, np.float32))] * REGIONS)


def as_bytes(histograms: list) -> bytes:
    return observation_to_bytes(Observation("mergeable", 1, dict(zip("ab", histograms, strict=True))))
