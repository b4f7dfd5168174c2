"""The shell on purpose only: nothing that is data is ever parsed, and what is quoted is one literal word."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from faults_child import nothing_left
from helpers import every_strategy
from hypothesis import example, given, settings
from hypothesis import strategies as st

import corelane as cl


@pytest.fixture(autouse=True, scope="module")
def _nothing_left():
    with nothing_left():
        yield


# What people and worms have tried. MARK stands for a file that no attempt may create.
INJECTIONS = [
    "; touch MARK",
    "& touch MARK &",
    "&& touch MARK",
    "|| touch MARK",
    "| touch MARK",
    "\ntouch MARK\n",
    "\r\ntouch MARK",
    "$(touch MARK)",
    "`touch MARK`",
    "${IFS}touch${IFS}MARK",
    "$((0$(touch MARK)))",
    "${x:-$(touch MARK)}",
    "> MARK",
    ">> MARK",
    "2> MARK",
    "<> MARK",
    "< /etc/passwd > MARK",
    "<<EOF\n$(touch MARK)\nEOF",
    "'; touch MARK; '",
    '"; touch MARK; "',
    "'\"'\"'; touch MARK; '\"'\"'",
    "\\'; touch MARK; \\'",
    "\\\"; touch MARK; \\\"",
    "' || touch MARK || '",
    "a' 'b\" $(touch MARK)",
    ") touch MARK (",
    "{ touch MARK; }",
    "(touch MARK)",
    "! touch MARK",
    "if true; then touch MARK; fi",
    "() { :; }; touch MARK",
    "x=() { :; }; touch MARK",
    "PATH=. touch MARK",
    "#\ntouch MARK",
    "\\\n; touch MARK",
    "\t;\ttouch MARK",
    "\x0b\x0c\x1b;touch MARK",
    "~/../../; touch MARK",
    "*", "?", "[a-z]*", "~", "~root", "{a,b}", "!!", "!$", "^a^b", "$0", "$$", "$@", "$*", "$#", "$?", "$-", "$_",
    "-rf", "--", "-", "-c", "--help", "-e touch MARK", "=x", "A=b", "A=$(touch MARK)", "%1", "@", ":", ".", "..", "!",
    "[", "]", "{", "}", "if", "do", "done", "time", "1", "2", "\\", "\\\\", "'", "''", '"', '""', "`", "$", "&", "|",
    ";", "<", ">", "(", ")", "#", " ", "  ", "\t", "\n", "\n\n", "\r", "", "\x7f", "\x01",
    "\u2019; touch MARK; \u2019", "\uff1b touch MARK", "\u00a0; touch MARK", "\u2028touch MARK", "\u202e; touch MARK",
    b"\xff; touch MARK", b"\xc0\xa7; touch MARK; \xc0\xa7", b"\xbf\x27; touch MARK", b"\x81'; touch MARK; '",
]  # fmt: skip

everything_tried = pytest.mark.parametrize("attempt", INJECTIONS, ids=ascii)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The path that stands for MARK; nothing but what the test makes may be beside it."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "MARK"
    assert not (tmp_path / "MARK").exists()
    assert not (tmp_path / "b").exists()


def aimed(attempt, mark):
    if isinstance(attempt, bytes):
        return attempt.replace(b"MARK", os.fsencode(mark))
    return attempt.replace("MARK", str(mark))


def raw(word):
    return os.fsencode(word)


def show(*words, **options):
    """The words of a shell's "$@", as bytes."""
    command = cl.Command.shell('for word do printf "%s\\0" "$word"; done', *words, timeout=30, **options)
    return command.with_options(stdout=cl.PIPE).run().stdout.split(b"\0")[:-1]


# ---- data is never parsed ----


@everything_tried
def test_as_an_argument(attempt, mark):
    word = aimed(attempt, mark)
    assert cl.run(["printf", "%s", word], stdout=cl.PIPE, timeout=30).stdout == raw(word)


@every_strategy
def test_as_arguments_of_each_strategy(strategy, mark):
    words = [aimed(attempt, mark) for attempt in INJECTIONS]
    given = cl.run(["printf", "%s\\0", *words], stdout=cl.PIPE, timeout=30, strategy=strategy).stdout
    assert given.split(b"\0")[:-1] == [raw(word) for word in words]


@everything_tried
def test_as_a_parameter_of_a_script(attempt, mark):
    word = aimed(attempt, mark)
    assert show(word) == [raw(word)]


def test_as_many_parameters(mark):
    words = [aimed(attempt, mark) for attempt in INJECTIONS]
    assert show(*words) == [raw(word) for word in words]


def test_in_variables(mark):
    words = [aimed(attempt, mark) for attempt in INJECTIONS]
    env = {f"V{number}": word for number, word in enumerate(words)}
    script = "; ".join(f'printf "%s\\0" "$V{number}"' for number in range(len(words)))
    given = cl.Command.shell(script, stdout=cl.PIPE, env_add=env, timeout=30).run().stdout
    assert given.split(b"\0")[:-1] == [raw(word) for word in words]


@pytest.mark.skipif(sys.platform == "darwin", reason="the file systems of macOS take UTF-8 names only")
def test_as_the_directory_to_work_in(mark, tmp_path):
    for number, attempt in enumerate(INJECTIONS):
        word = raw(aimed(attempt, mark)).replace(b"/", b"_")
        place = os.path.join(raw(tmp_path), b"d%d" % number, b"_" + word)
        os.makedirs(place)
        found = cl.run(["pwd", "-P"], cwd=place, env_remove=["PWD"], stdout=cl.PIPE, timeout=30).stdout
        assert found == os.path.realpath(place) + b"\n"


def test_as_the_program(mark):
    """It is a name to be looked up, whatever it looks like."""
    for attempt in INJECTIONS:
        word = aimed(attempt, mark)
        if raw(word) not in (b"", b"[", b"time", b"printf"):
            with pytest.raises((FileNotFoundError, NotADirectoryError, PermissionError)):
                cl.run([word, "x"], timeout=30, stdin=cl.DEVNULL, capture=True)


def test_as_the_name_of_a_file(mark, tmp_path):
    for attempt in ("; touch MARK", "$(touch MARK)", "| touch MARK", "> MARK", "-rf"):
        name = attempt.replace("MARK", "_MARK").replace("/", "_")
        cl.run(["echo", "x"], stdout=tmp_path / name, timeout=30)
        assert (tmp_path / name).read_text() == "x\n"


def test_a_script_file_without_interpreter_is_no_shell_script(mark, tmp_path):
    """execvp would hand it to sh."""
    script = tmp_path / "script"
    script.write_text(f"touch {mark}\n")
    script.chmod(0o755)
    with pytest.raises(OSError, match=r"Command\.shell"):
        cl.run([script])
    with pytest.raises(OSError, match=r"Command\.shell"):
        cl.run(["script"], env_add={"PATH": str(tmp_path)})


def test_a_string_is_not_a_command(mark):
    for call in (cl.run, cl.read):
        with pytest.raises(TypeError, match=r"Command\.shell"):
            call(f"touch {mark}")


# ---- what is quoted is one word ----


@everything_tried
def test_as_a_quoted_word_of_a_template(attempt, mark):
    word = aimed(attempt, mark)
    template = f'printf "%s\\0" {cl.quote(word)} end'
    given = cl.Command.shell(template, stdout=cl.PIPE, timeout=30).run().stdout
    assert given == raw(word) + b"\0end\0"


@everything_tried
def test_next_to_whatever_a_template_has(attempt, mark):
    """Glued to other text, before a redirection, in an assignment, in a here-document's delimiter's place."""
    word = aimed(attempt, mark)
    quoted = cl.quote(word)
    template = (
        f"set -- a{quoted}b; printf '%s\\0' \"$1\"; x={quoted}; printf '%s\\0' \"$x\"; printf '%s\\0' {quoted}>&1"
    )
    given = cl.Command.shell(template, stdout=cl.PIPE, timeout=30).run().stdout
    assert given.split(b"\0")[:-1] == [b"a" + raw(word) + b"b", raw(word), raw(word)]


# Where a command is expected these are something else to one shell or another.
KEYWORDS = ["if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for", "in", "function",
            "select", "time", "coproc", "A=b", "2", "-c", "+x"]  # fmt: skip


@pytest.mark.parametrize("attempt", [*INJECTIONS, *KEYWORDS], ids=ascii)
def test_as_the_command_of_a_template(attempt, mark):
    """No assignment, no keyword, no option of sh's own: a name that is not there."""
    word = aimed(attempt, mark)
    command = cl.Command.shell(cl.quote(word), env={"PATH": "/nonexistent"}, capture=True, check=False, timeout=30)
    result = command.run()
    if raw(word) not in BUILTINS:
        assert result.returncode in (126, 127), result.stderr


BUILTINS = (b":", b".", b"[")


WORD = st.binary(max_size=30).filter(lambda data: b"\0" not in data)


@settings(max_examples=100, derandomize=True)
@given(st.lists(WORD, min_size=1, max_size=10))
@example([bytes(range(1, 256))])
@example([bytes([byte]) for byte in range(1, 256)])
@example([b"'" * 20, b"\\'" * 5, b"'\"'\"'"])
def test_a_real_shell_reads_back_what_was_quoted(words):
    template = f"printf '%s\\0' {cl.quote(*words)}"
    given = cl.Command.shell(template, stdout=cl.PIPE, timeout=30).run().stdout
    assert given.split(b"\0")[:-1] == words


@settings(max_examples=50, derandomize=True)
@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30))
def test_text_can_be_quoted_twice(word):
    """For a shell that is given to a shell, as over ssh."""
    inner = f"printf %s {cl.quote(word)}"
    given = cl.Command.shell(f"sh -c {cl.quote(inner)}", stdout=cl.PIPE, timeout=30).run().stdout
    assert given == word.encode()


@pytest.mark.parametrize("shell", ["bash", "dash", "ksh", "zsh", "busybox"])
def test_other_shells_read_it_too(shell):
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    words = [raw(word) for word in INJECTIONS if isinstance(word, str)]
    argv = [shell, *(["sh"] if shell == "busybox" else []), "-c", f"printf '%s\\0' {cl.quote(*words)}"]
    assert cl.run(argv, stdout=cl.PIPE, timeout=30).stdout.split(b"\0")[:-1] == words


@pytest.mark.parametrize(
    ("words", "quoted"),
    [
        ((), ""),
        (("",), "''"),
        (("plain",), "plain"),
        (("a/b.c-d_e:f,g@h%i+j",), "a/b.c-d_e:f,g@h%i+j"),
        (("two words", "x"), "'two words' x"),
        (("it's",), "'it'\"'\"'s'"),
        (("A=b",), "'A=b'"),
        (("while",), "'while'"),
        (("12",), "'12'"),
        ((Path("/a b"), b"c d"), "'/a b' 'c d'"),
        ((b"\xff",), "'\udcff'"),
        (("\u00e9",), "'\u00e9'"),
    ],
)
def test_what_it_looks_like(words, quoted):
    assert cl.quote(*words) == quoted


def test_what_no_shell_can_pass_on_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        cl.quote("a\0b")
    for wrong in (None, 1, ["a"]):
        with pytest.raises(TypeError):
            cl.quote(wrong)


# ---- the one road ----


def test_a_script_and_its_parameters():
    command = cl.Command.shell('echo "$1-$2-$#"', "a b", "$(c)", stdout=cl.PIPE)
    assert command.args == ("/bin/sh", "-c", 'echo "$1-$2-$#"', "sh", "a b", "$(c)")
    assert command.run().stdout == b"a b-$(c)-2\n"
    assert cl.Command.shell("echo $0", stdout=cl.PIPE).run().stdout == b"sh\n"


@pytest.mark.parametrize("script", ["-c", "--help", "-e touch MARK", "+x", "-"])
def test_a_script_is_never_an_option_of_the_shell(script, mark):
    """`sh -c -c` would take the second one for an option as well."""
    result = cl.Command.shell(aimed(script, mark), env={"PATH": "/nonexistent"}, capture=True, check=False).run()
    assert result.returncode == 127


def test_a_script_is_text():
    for wrong in (b"echo", ["echo"], None, Path("echo")):
        with pytest.raises(TypeError, match="script must be a str"):
            cl.Command.shell(wrong)
    with pytest.raises(ValueError, match="NUL"):
        cl.Command.shell("echo\0")


def test_a_script_takes_options_like_any_command(tmp_path):
    assert cl.Command.shell("pwd", cwd=tmp_path, timeout=30).read() == f"{os.path.realpath(tmp_path)}\n"
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        cl.Command.shell("pwd", timeuot=3)


def test_a_pipeline_in_a_script_is_ended_by_a_closed_pipe():
    """SIGPIPE, which Python ignores, has its default again: else `yes` would never end."""
    assert cl.Command.shell("yes | head -n 1", stdout=cl.PIPE, timeout=30).run().stdout == b"y\n"
