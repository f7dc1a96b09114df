import time

import pytest

from oculox.runtime.timing import STAGES, Spread, StageTimes, Stopwatch, spread_of


def test_stopwatch_adds_up_and_counts_what_fails_too():
    watch = Stopwatch()
    for _ in range(2):
        with watch.stage("network"):
            time.sleep(0.01)
    with pytest.raises(ValueError), watch.stage("decode"):
        time.sleep(-1)
    watch.count(4)
    times = watch.times()
    assert 0.02 <= times.network < 2
    assert times.decode > 0
    assert times.preprocess == times.postprocess == 0
    assert times.images == 4
    assert times.total == pytest.approx(times.network + times.decode)


def test_milliseconds_and_sum():
    one = StageTimes(decode=1, preprocess=2, network=3, postprocess=4, images=10)
    row = one.milliseconds()
    assert tuple(row) == (*STAGES, "total")
    assert row["network"] == 300
    assert row["total"] == 1000
    assert one + one == StageTimes(decode=2, preprocess=4, network=6, postprocess=8, images=20)


def test_nothing_measured():
    assert set(StageTimes().milliseconds().values()) == {0.0}


def test_a_watch_begins_again_at_zero():
    watch = Stopwatch()
    with watch.stage("decode"):
        time.sleep(0.01)
    watch.count(2)
    assert watch.restart().images == 2
    assert watch.times() == StageTimes()


def test_the_median_of_several_measurements_and_their_range():
    rounds = [StageTimes(network=n, images=2) for n in (1, 9, 2)]
    spread = spread_of([*rounds, StageTimes(decode=5)])
    assert tuple(spread) == (*STAGES, "total")
    assert spread["network"] == spread["total"] == Spread(median=1000, min=500, max=4500)
    assert spread["decode"] == Spread(median=0, min=0, max=0)
    assert spread_of([StageTimes(decode=5)]) == {}
