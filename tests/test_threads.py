"""How many threads there are: limits that overlap, nest and end in any order."""

import contextlib
import multiprocessing
import os
import threading

import pytest

import fastloss as fl

several = pytest.mark.skipif(fl.get_num_threads() < 2, reason="there is one core")


@several
def test_overlapping_limits_of_two_threads():
    before, entered, leave = fl.get_num_threads(), threading.Barrier(3), [threading.Event(), threading.Event()]

    def limit(k):
        with fl.threadpool_limits(1):
            entered.wait()
            leave[k].wait()

    threads = [threading.Thread(target=limit, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    entered.wait()
    for k in range(2):  # in the order in which they came, or the other
        assert fl.get_num_threads() == 1
        leave[k].set()
        threads[k].join()
    assert fl.get_num_threads() == before


@several
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_limits_end_in_any_order(order):
    before = fl.get_num_threads()
    limits = [fl.threadpool_limits(count) for count in (2, 1, before)]
    for limit in limits:
        limit.__enter__()
    held = {0: 2, 1: 1, 2: before}
    for k in order:
        assert fl.get_num_threads() == min(held.values())
        limits[k].__exit__(None, None, None)
        del held[k]
    assert fl.get_num_threads() == before


@several
def test_a_number_that_is_set_inside_a_limit_holds_once_it_ends():
    before = fl.get_num_threads()
    try:
        with fl.threadpool_limits(1):
            fl.set_num_threads(before)
            assert fl.get_num_threads() == 1
        assert fl.get_num_threads() == before
        with fl.threadpool_limits(before):
            fl.set_num_threads(1)
            assert fl.get_num_threads() == 1
        assert fl.get_num_threads() == 1
    finally:
        fl.set_num_threads(before)


@several
def test_limits_end_where_an_error_leaves_them():
    before = fl.get_num_threads()
    with contextlib.suppress(KeyError), fl.threadpool_limits(1), fl.threadpool_limits(2):
        assert fl.get_num_threads() == 1
        raise KeyError
    assert fl.get_num_threads() == before
    for wrong in (0, -1, 1.5, "1"):
        with pytest.raises((TypeError, ValueError), match="threadpool_limits: limits must be"), fl.threadpool_limits(wrong):
            pass
    assert fl.get_num_threads() == before


def test_a_child_inherits_the_limit():
    with fl.threadpool_limits(1), multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(fl.get_num_threads) == 1
        assert pool.apply(os.getpid) != os.getpid()
