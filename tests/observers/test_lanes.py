"""Tasks in threads: all are done, few wait, and of those that fail the first one is told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from threading import Barrier, Event, Thread
from threading import enumerate as enumerate_threads

import pytest

from app.observers.lanes import Lanes, keep_threads, take_threads

THREADS, PORTION = 2, 3


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    with closing(Lanes(THREADS, PORTION)) as lanes:
        yield lanes


def fail(number: int, _lane: int = 0) -> None:
    raise ArithmeticError(number)


def test_every_task_is_done_before_finish_returns_and_more_may_follow(lanes: Lanes) -> None:
    done: list[int] = []
    for count in (1, 100, 0, 7):
        for number in range(count):
            lanes.put(lambda _lane, number=number: done.append(number))
        lanes.finish()
        assert sorted(done) == list(range(count))
        done.clear()


def test_both_threads_work_at_the_same_time(lanes: Lanes) -> None:
    first, second = Event(), Event()

    def meet(own: Event, other: Event, _lane: int) -> None:
        own.set()
        assert other.wait(10)

    lanes.put(partial(meet, first, second))
    lanes.put(partial(meet, second, first))
    lanes.finish()


@pytest.mark.parametrize("more", [0, 1])
def test_threads_keep_to_cores_of_their_own_where_there_is_one_for_each(more: int) -> None:
    cores = os.sched_getaffinity(0)
    threads = len(cores) + more
    together, kept_to = Barrier(threads, timeout=10), [set[int]()] * threads

    def tell(lane: int) -> None:
        together.wait()
        kept_to[lane] = os.sched_getaffinity(0)

    with closing(Lanes(threads, PORTION)) as lanes:
        for _ in range(threads):
            lanes.put(tell)
        lanes.finish()
    assert sorted(map(sorted, kept_to)) == ([sorted(cores)] * threads if more else [[core] for core in sorted(cores)])
    assert os.sched_getaffinity(0) == cores


def test_threads_that_were_kept_are_taken_once() -> None:
    keep_threads(THREADS)
    before = set(enumerate_threads())  # of lanes that were closed some may be ending still
    kept = take_threads(THREADS)
    assert set(enumerate_threads()) <= before
    other = take_threads(THREADS)
    assert len(set(enumerate_threads()) - before) == THREADS
    for executor in (kept, other):
        executor.shutdown()


def test_few_tasks_wait_for_threads_that_are_busy(lanes: Lanes) -> None:
    go = Event()
    put: list[int] = []

    def wait(_lane: int) -> None:
        assert go.wait(10)

    def put_all() -> None:
        for number in range(100):
            lanes.put(wait)
            put.append(number)

    producer = Thread(target=put_all)
    producer.start()
    producer.join(0.2)
    ahead = len(put)
    go.set()
    producer.join()
    lanes.finish()
    assert THREADS * PORTION <= ahead <= 2 * THREADS * PORTION
    assert len(put) == 100


def test_the_first_task_that_fails_is_told_of(lanes: Lanes) -> None:
    later = Event()

    def fail_late(_lane: int) -> None:
        assert later.wait(10)
        fail(1)

    def fail_soon(_lane: int) -> None:
        later.set()
        fail(2)

    for task in (lambda _lane: None, fail_late, fail_soon):
        lanes.put(task)
    with pytest.raises(ArithmeticError, match="1"):
        lanes.finish()


def put_failing(lanes: Lanes) -> None:
    for number in range(100):
        lanes.put(partial(fail, number))


def test_put_raises_what_failed_where_it_would_wait_forever(lanes: Lanes) -> None:
    with pytest.raises(ArithmeticError, match="0"):
        put_failing(lanes)


def test_close_drops_what_has_not_begun_and_nothing_can_be_put_then() -> None:
    began, go = Event(), Event()
    done: list[int] = []
    lanes = Lanes(1, PORTION)

    def work(_lane: int) -> None:
        began.set()
        assert go.wait(10)
        done.append(1)

    for _ in range(PORTION):
        lanes.put(work)
    assert began.wait(10)
    closing_thread = Thread(target=lanes.close)
    closing_thread.start()
    closing_thread.join(0.1)
    go.set()
    closing_thread.join()
    assert done == [1]
    with pytest.raises(RuntimeError, match="shutdown"):
        lanes.put(work)


def test_a_slow_task_holds_no_other_up(lanes: Lanes) -> None:
    last = Event()
    waited: list[bool] = []
    lanes.put(lambda _lane: waited.append(last.wait(10)))
    for _ in range(50):
        lanes.put(lambda _lane: None)
    lanes.put(lambda _lane: last.set())
    lanes.finish()
    assert waited == [True]


def test_a_process_that_put_nothing_ends_without_closing() -> None:
    program = "from app.observers.lanes import Lanes; lanes = Lanes(2, 3)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
