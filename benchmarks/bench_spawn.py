"""Spawn a child that only exits, and wait for it."""

import pytest

from corelane.cli.bench.options import strategy_names


@pytest.mark.benchmark(group="spawn + wait, tiny")
@pytest.mark.parametrize("mode", ["corelane", "corelane_cold", "os.posix_spawn", "subprocess"])
def test_spawn_and_wait(benchmark, spawner, tiny, mode):
    benchmark(spawner(mode, tiny))


@pytest.mark.benchmark(group="spawn + wait, /bin/true")
@pytest.mark.parametrize("mode", ["corelane", "os.posix_spawn", "subprocess"])
def test_spawn_and_wait_for_a_real_program(benchmark, spawner, available, mode):
    benchmark(spawner(mode, available.true))


@pytest.mark.benchmark(group="strategies, tiny")
@pytest.mark.parametrize("strategy", strategy_names())
def test_strategy(benchmark, spawner, tiny, strategy):
    benchmark(spawner(f"corelane+bare+strategy={strategy}", tiny))
