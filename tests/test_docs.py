"""Every Python and sh block of the README and of docs/ is run, in its order, as a reader would."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]


def run_in_a_shell(example):
    """A block fails with its first command that does."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    shell = ["sh", "-eu", "-c", example.parsed]
    done = subprocess.run(shell, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{example.path}:{example.line}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parsers = [PythonCodeBlockParser(), CodeBlockParser("sh", run_in_a_shell), SkipParser()]
    document = Sybil(parsers=parsers).parse(ROOT / page)
    examples = list(document.examples())
    assert examples or page != "README.md"
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("page", [*PAGES, "ARCHITECTURE.md", "csrc/README.md", "benchmarks/README.md"])
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert "://" in target or ((ROOT / page).parent / target).exists(), target


def test_the_tests_that_the_gotchas_name_are_there():
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/*.*") if path.suffix in (".py", ".c", ".h"))
    named = re.findall(r"`(?:tests/c/)?(test_\w+|survives_\w+|\w+\.[chl])`", (ROOT / "docs" / "gotchas.md").read_text())
    files = {path.name for path in ROOT.glob("tests/**/*")}
    assert len(named) > 50
    assert [name for name in named if name not in files and not re.search(rf"\b{name}\(", tests)] == []
