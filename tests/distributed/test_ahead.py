"""Several items at once, results in order."""

import threading
import time

import pytest
import torch

from oculox.distributed.ahead import usable_threads, work_ahead


def test_results_come_in_the_order_of_the_items():
    def slow_first(i):
        time.sleep(0.02 * (i % 3 == 0))
        return i * i

    assert list(work_ahead(slow_first, range(20), threads=3)) == [i * i for i in range(20)]


def test_items_are_worked_on_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    assert list(work_ahead(lambda i: both.wait() >= 0, range(4), threads=2)) == [True] * 4


def test_one_thread_is_that_of_the_caller():
    names = list(work_ahead(lambda _: threading.current_thread(), range(2), threads=1))
    assert names == [threading.current_thread()] * 2


def test_no_more_is_taken_than_needed():
    taken = []
    hold = threading.Event()

    def items():
        for i in range(100):
            taken.append(i)
            if i == 4:
                hold.set()
            yield i

    results = work_ahead(lambda i: hold.wait(10) and i, items(), threads=2)
    assert next(results) == 0
    assert len(taken) == 5
    results.close()


def test_an_error_comes_in_its_place_and_ends_the_work():
    begun = []

    def work(i):
        begun.append(i)
        if i == 2:
            raise ValueError("the third")
        return i

    results = work_ahead(work, range(1000), threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert len(begun) < 20


def test_closing_ends_the_threads():
    before = threading.active_count()
    results = work_ahead(lambda i: i, range(1000), threads=2)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


def in_new_thread(work=torch.get_num_threads):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_the_cores_are_shared_and_given_back(set_threads):
    set_threads(4)
    inside = list(work_ahead(lambda _: torch.get_num_threads(), range(6), threads=2))
    assert inside == [2] * 6
    assert torch.get_num_threads() == 4
    assert in_new_thread() == 4


def test_callers_that_overlap_give_all_cores_back(set_threads):
    set_threads(4)
    first = work_ahead(lambda i: i, range(1000), threads=2)
    next(first)

    def second():
        usable = usable_threads()
        inside = work_ahead(lambda _: torch.get_num_threads(), range(6), threads=2)
        shares = [next(inside)]
        first.close()
        return usable, [*shares, *inside], torch.get_num_threads()

    assert in_new_thread(second) == (4, [2] * 6, 4)
    assert torch.get_num_threads() == 4
    assert in_new_thread() == 4
