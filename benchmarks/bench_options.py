"""What one more option costs. The same beside raw C: `corelane bench options`."""

import pytest

from corelane.cli.bench.options import option_names


@pytest.mark.benchmark(group="one option, tiny")
@pytest.mark.parametrize("option", ["none", *option_names()])
def test_option(benchmark, spawner, tiny, option):
    benchmark(spawner("corelane+bare" if option == "none" else f"corelane+bare+{option}", tiny))
