import time

import pytest

from oculox.runtime.timing import STAGES, StageTimes, Stopwatch


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
