"""Where the jobs of `corelane batch` come from: lines of commands, JSON, or values for a template.

A Source owns the file that it was given by name, and never waits: it gives out what is here, and says which descriptor
tells of more. What is wrong with one line is an Entry with an error, and the others are not harmed. Values are put into
arguments and never parsed, by a shell or by us.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import select
import shlex
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from corelane.process import STDOUT, Command, File

__all__ = [
    "Entry",
    "Records",
    "Source",
    "Template",
    "Values",
    "json_line",
    "shell_line",
    "shell_template",
    "words_line",
]

_AT_ONCE = 1 << 16
_LONGEST = 1 << 24  # bytes of one record: more than any command line has room for
_BLANKS = 2 * _AT_ONCE  # lines that are passed over by one call: more than a read brings, and soon done
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


class Entry:
    """One job, as it was asked for.

    Attributes:
        seq: its number, from 1, in the order of the input.
        where: what it was read from, as "line 7", or "".
        args: its program and arguments.
        options: of a Command, for this job only.
        error: why it cannot be run, or "".
    """

    __slots__ = ("_identity", "args", "error", "id", "options", "seq", "where")

    def __init__(
        self,
        args: Sequence[str] = (),
        options: dict[str, Any] | None = None,
        id: str | None = None,
        error: str = "",
        identity: Any = None,
    ) -> None:
        self.seq = 0
        self.where = ""
        self.args = args
        self.options = options or {}
        self.id = id
        self.error = error
        self._identity = identity

    @property
    def key(self) -> str:
        """By which a log knows the job in a later run: its id, or else all that it was asked to do."""
        import hashlib  # loads OpenSSL, which few batches need

        identity = self._identity or self.args if self.id is None else {"id": self.id}
        return hashlib.blake2b(_encode(identity).encode(), digest_size=16).hexdigest()


# ---- records ---------------------------------------------------------------------------------------------------------


class Records:
    """The records of a file or stdin, which end with a newline or a NUL; the last one may end with the file."""

    def __init__(self, fd: int, separator: bytes) -> None:
        self.fd: int | None = fd
        self.at_end = False
        self._separator = separator
        self._whole: deque[bytearray] = deque()
        self._begun = bytearray()
        self._input = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def take(self) -> str | None:
        """The next record; None: it is not here yet, or `at_end`."""
        while not self._whole:
            if self.at_end or not self._poll.poll(0):
                return None
            self._read()
        return os.fsdecode(bytes(self._whole.popleft()))

    def _read(self) -> None:
        try:
            chunk = os.read(self._input, _AT_ONCE)
        except BlockingIOError:  # somebody else has taken it
            return
        self._begun += chunk
        if self._separator in chunk:
            *whole, self._begun = self._begun.split(self._separator)
            self._whole.extend(whole)
        if len(self._begun) > _LONGEST:
            raise ValueError(f"a record of the input is longer than {_LONGEST >> 20} MiB")
        if not chunk:
            self.at_end, self.fd = True, None
            if self._begun:
                self._whole.append(self._begun)

    def count(self) -> int | None:
        """How many there are; None where only reading them would tell."""
        if not stat.S_ISREG(os.fstat(self._input).st_mode):
            return None
        found, at, last = 0, os.lseek(self._input, 0, os.SEEK_CUR), self._separator
        while chunk := os.pread(self._input, 1 << 20, at):
            found += chunk.count(self._separator)
            at += len(chunk)
            last = chunk[-1:]
        return found + (last != self._separator)


class Values:
    """Each combination of values from some lists; the last list varies fastest."""

    fd = None

    def __init__(self, lists: Sequence[Sequence[str]]) -> None:
        self._count = math.prod(map(len, lists))
        self._combinations: Iterator[tuple[str, ...]] = itertools.product(*lists)
        self.at_end = False

    def take(self) -> tuple[str, ...] | None:
        """The next combination; None where there is none."""
        found = next(self._combinations, None)
        self.at_end = found is None
        return found

    def count(self) -> int | None:
        return self._count


class Source:
    """The jobs, one by one.

    Args:
        records: Records or Values.
        parse: makes an Entry of one of them; None: it is blank or a comment.
        what: what one is called, as "line".

    Attributes:
        fd: a descriptor that is readable when more is here; None where nothing has to be waited for.
        at_end: whether there is nothing more.
    """

    def __init__(self, records: Records | Values, parse: Callable[[Any], Entry | None], what: str) -> None:
        self._records = records
        self._parse = parse
        self._what = what
        self._number = self._seq = 0
        self.total = records.count

    @property
    def fd(self) -> int | None:
        return self._records.fd

    @property
    def at_end(self) -> bool:
        return self._records.at_end

    def take(self) -> Entry | None:
        """The next job; None: it is not here yet, there were many blank lines, or `at_end`.

        Raises:
            OSError, ValueError: the input cannot be read.
        """
        for _ in range(_BLANKS):
            record = self._records.take()
            if record is None:
                return None
            self._number += 1
            try:
                entry = self._parse(record)
            except ValueError as error:
                entry = Entry(error=str(error), identity={"bad": record})
            if entry is None:
                continue
            self._seq += 1
            entry.seq = self._seq
            entry.where = f"{self._what} {self._number}"
            return entry
        return None


# ---- what a record says ----------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"[^'\"\\<>|&;\x0b\x0c\x1c-\x1f\x80-\U0010ffff]*").fullmatch
_QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""")
_OPERATORS = {"<", ">", ">>", "<<", "|", "||", "&", "&&", ";", "2>", "2>>", "2>&1", ">&2", "&>", "|&"}


def _is_blank(line: str) -> bool:
    stripped = line.strip()
    return not stripped or stripped[0] == "#"


def words_line(line: str) -> Entry | None:
    """A command line, split by the shell's quoting; nothing else of a shell is in it."""
    if _is_blank(line):
        return None
    if _PLAIN(line):
        return Entry(line.split())
    words = shlex.split(line)
    if bare := _OPERATORS.intersection(words, _QUOTED.sub("_", line).split()):
        raise ValueError(f"{min(bare)!r} means something to a shell only: give --shell, or quote it")
    return Entry(words)


def shell_line(line: str) -> Entry | None:
    """A line for sh."""
    return None if _is_blank(line) else Entry(Command.shell(line).args)  # type: ignore[arg-type]  # all of it str


_JSON_OPTIONS = {
    "autogroup", "cgroup", "contain", "cpus", "cwd", "env", "env_add", "env_remove", "extra_groups", "grace", "group",
    "io_priority", "memory_policy", "new_session", "nice", "no_new_privs", "oom_score_adj", "program", "reset_on_fork",
    "rlimits", "sched", "signal_defaults", "signal_ignores", "signal_mask", "stderr", "stdin", "stdout", "strategy",
    "timeout", "uclamp", "umask", "user",
}  # fmt: skip


def json_line(line: str) -> Entry | None:
    """A list of arguments, or an object with args, an id, and options of a Command."""
    if not line.strip():
        return None
    try:
        said = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if isinstance(said, list):
        return Entry(_arguments(said))
    if not isinstance(said, dict):
        raise ValueError('a job is a list of arguments, or an object like {"args": ["true"], "timeout": 10}')
    options = dict(said)
    args, id = _arguments(options.pop("args", None)), options.pop("id", None)
    if id is not None and not isinstance(id, (str, int)):
        raise ValueError(f"an id is a string or a number, not {id!r}")
    if unknown := options.keys() - _JSON_OPTIONS:
        raise ValueError(f"there is no option {min(unknown)!r} for a job; there are {', '.join(sorted(_JSON_OPTIONS))}")
    identity = {name: value for name, value in said.items() if name != "id"} if options else None
    options = {name: _option(name, value) for name, value in options.items()}
    if isinstance(options.get("stderr"), File) and options["stderr"] == options.get("stdout"):
        options["stderr"] = STDOUT  # opened twice, each would overwrite the other
    return Entry(args, options, None if id is None else str(id), identity=identity)


def _arguments(given: Any) -> list[str]:
    if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
        raise ValueError(f"args must be a list of strings, with a program at least, not {given!r}")
    return given


def _option(name: str, value: Any) -> Any:
    if name in ("stdin", "stdout", "stderr"):
        if isinstance(value, dict) and value.keys() <= {"file", "append"} and isinstance(value.get("file"), str):
            append = value.get("append", False)
            if not isinstance(append, bool):
                raise ValueError(f"append in {name} must be true or false, not {append!r}")
            return File(value["file"], append=append)
        if name != "stdin" or not isinstance(value, str):
            text = ", or text" if name == "stdin" else ""
            raise ValueError(f'{name} must be like {{"file": "path"}}{text}, not {value!r}')
    if name == "cwd" and not isinstance(value, str):  # to a Command a number would be a descriptor
        raise ValueError(f"cwd must be a path, not {value!r}")
    return tuple(value) if name in ("sched", "io_priority", "memory_policy") and isinstance(value, list) else value


# ---- templates -------------------------------------------------------------------------------------------------------

_PLACE = re.compile(r"\{(\d*)(|\.|/|//|/\.)\}|\{#\}")
_PARTS: dict[str, Callable[[str], str]] = {
    "": str,
    ".": lambda value: os.path.splitext(value)[0],
    "/": os.path.basename,
    "//": lambda value: os.path.dirname(value) or ".",
    "/.": lambda value: os.path.splitext(os.path.basename(value))[0],
}


class Template:
    """A command with places for values.

    Args:
        words: the program and its arguments. {} is the value, {.} it without its extension, {/} its last part, {//} its
            directory, {/.} its last part without extension; {2}, {2.} and so on are of the second list's; {#} is the
            job's number. Where none of them is, the values become arguments at the end.
        lists: how many values there are.

    Raises:
        ValueError: there is no such list, or it is not clear which one is meant.
    """

    def __init__(self, words: Sequence[str], lists: int = 1) -> None:
        self._words = [list(self._pieces(word, lists)) for word in words]
        self._appends = not any(_PLACE.search(word) for word in words)
        self._seq = 0

    def _pieces(self, word: str, lists: int) -> Iterator[str | tuple[int, Callable[[str], str]]]:
        at = 0
        for place in _PLACE.finditer(word):
            yield word[at : place.start()]
            at = place.end()
            number, part = place[1], place[2]
            if part is None:
                yield -1, str
                continue
            if not number and lists > 1:
                raise ValueError(f"{place[0]} in {word!r} could be of any of {lists} lists: write {{1{part}}}")
            if number and not 1 <= int(number) <= lists:
                raise ValueError(f"{place[0]} in {word!r}: there is no list {number}")
            yield int(number or 1) - 1, _PARTS[part]
        yield word[at:]

    def fill(self, values: str | tuple[str, ...]) -> Entry:
        """The command with these values in it."""
        self._seq += 1
        found = values if isinstance(values, tuple) else (values,)
        filled = [
            "".join(
                piece if isinstance(piece, str) else str(self._seq) if piece[0] < 0 else piece[1](found[piece[0]])
                for piece in word
            )
            for word in self._words
        ]
        return Entry([*filled, *found] if self._appends else filled)


def shell_template(script: str) -> Callable[[str | tuple[str, ...]], Entry]:
    """A script that finds the values in "$1", "$2" and so on, where no shell parses them.

    Raises:
        ValueError: it has places for values as a command has them.
    """
    if _PLACE.search(script) and "$" not in script:
        raise ValueError(f'in a script the values are "$1", "$2" and so on, not {{}}: {script!r}')
    command = Command.shell(script)

    def fill(values: str | tuple[str, ...]) -> Entry:
        return Entry([*command.args, *(values if isinstance(values, tuple) else (values,))])  # type: ignore[list-item]

    return fill
