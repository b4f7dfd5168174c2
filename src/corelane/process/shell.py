"""Quoting for the shell. The only road through a shell is `Command.shell`; this is for what is put into its text."""

from __future__ import annotations

import os

from corelane.process.values import text

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any


__all__ = ["quote"]

# Without "=": where a command's name is expected, A=b would be an assignment.
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+:,./-_")
_RESERVED = {"case", "coproc", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in", "select",
             "then", "time", "until", "while"}  # fmt: skip


def quote(*words: str | bytes | os.PathLike[Any]) -> str:
    """Quote words so that a POSIX shell reads each as exactly one literal word.

    Args:
        words: str, bytes or paths. Bytes that are not UTF-8 come back as surrogate escapes, which `Command.shell`
            turns into those bytes again.

    Returns:
        The quoted words, separated by blanks; "''" for an empty one.

    Raises:
        TypeError, ValueError: a word is of another type, or has a NUL, which no shell can pass on.
    """
    return " ".join(_quote(os.fsdecode(text("a word to quote", word))) for word in words)


def _quote(word: str) -> str:
    # A word that begins with '-' is still one literal word; what a program makes of it is the caller's concern.
    # A number before '>' would be a descriptor.
    if word and _SAFE.issuperset(word) and word not in _RESERVED and not word.isdecimal():
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"
