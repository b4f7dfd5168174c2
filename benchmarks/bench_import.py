"""Import corelane in a fresh interpreter, beside asyncio. What is timed includes the interpreter's own start:
the row `pass` is that alone. The ratio without it: `corelane bench import`.
"""

import subprocess
import sys

import pytest

from corelane.cli.bench.imports import bytecode_environment


@pytest.mark.benchmark(group="import in a fresh interpreter")
@pytest.mark.parametrize("statement", ["pass", "import corelane", "import asyncio", "import subprocess"])
def test_import(benchmark, tmp_path_factory, statement):
    environment = bytecode_environment(str(tmp_path_factory.getbasetemp()))
    argv = [sys.executable, "-c", statement]
    subprocess.run(argv, check=True, env=environment)  # compiles what it imports
    benchmark(subprocess.run, argv, check=True, env=environment)
