"""Running one child as if this process were the child: what comes to us goes to it.

Owns this process's signal mask and the handlers of the signals it passes on, from `supervise` on until the process
ends. So this is for a program that does nothing else, and never for a library's caller.

No signal is lost, and none is handled at a bad moment, because none is delivered: they are blocked before the child is
started, a bell tells that one waits, and it is taken when it suits us.

    before the child is there   a signal waits, and is the first thing the child gets
    while it runs               it is taken and passed on, to all of the child's scope
    after its end               it waits for ever: the child's status is the answer

SIGCHLD is one of them, so the child's end needs no descriptor, and the portable build no polling. Deliberately not done
here: reading or writing anything, which is left to the child.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from signal import Signals
from typing import TYPE_CHECKING

from corelane.errors import ProcessTimeout
from corelane.process import Process

if TYPE_CHECKING:
    from corelane.process import Command, Result

__all__ = ["supervise"]

_PASSED_ON = (Signals.SIGHUP, Signals.SIGINT, Signals.SIGQUIT, Signals.SIGTERM, Signals.SIGUSR1, Signals.SIGUSR2,
              Signals.SIGWINCH, Signals.SIGTSTP, Signals.SIGCONT)  # fmt: skip
# Made by a terminal, for every process of its foreground group.
_FROM_KEYS = (Signals.SIGINT, Signals.SIGQUIT, Signals.SIGWINCH)
_AT_MOST = 1e6  # seconds of one sleep, which is in milliseconds of 31 bits
_DIES_WITHIN = 5.0  # seconds: what SIGKILL has not ended by then is in uninterruptible sleep


def supervise(command: Command) -> tuple[Result, bool]:
    """Run `command` to its end, passing on what signals come, and end its scope at its timeout as a run does.

    Returns:
        The Result, and whether the time ran out. What the child left of its scope is killed.

    Raises:
        SpawnFailed, CgroupUnavailable, NotSupported, OSError, ValueError: it could not be started.
        ProcessTimeout: SIGKILL did not end it.
    """
    packed = command.packed("run")  # opens files: a FIFO waits for its other end, and signals may end that
    taken = _block()
    bell = _Bell(taken)
    with Process(command, for_run=True, packed=packed) as process:
        relay = _Relay(process, taken, bell)
        relay.watch()
        # Before it is reaped: until then nobody else's group can have its number.
        if process.contained != "none":
            process.signal_scope(Signals.SIGKILL)
    return process.result(), relay.timed_out


def _block() -> frozenset[Signals]:
    """Block what is passed on, and the child's end; returns which signals these are."""
    # What we were told to ignore (by nohup, say) the child ignores too.
    taken = {each for each in _PASSED_ON if signal.getsignal(each) is not signal.SIG_IGN} | {Signals.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, taken)
    # An ignored SIGCHLD would throw the child's status away; and some systems drop a signal, though it is blocked, if
    # nobody handles it and its default is to do nothing. SIGTSTP keeps its default: to stop us.
    for each in taken - {Signals.SIGTSTP}:
        signal.signal(each, _let_in)
    return frozenset(taken)


def _let_in(number: int, frame: object) -> None:
    pass


class _Bell:
    """Rings while one of these signals waits, and takes none of them.

    Taking is what would go wrong with SIGTSTP. Whoever takes it has to stop by a signal of their own, and the kernel
    then drops a SIGCONT that came in between:

        somebody: SIGTSTP           SIGCONT
        we:                take it           SIGSTOP ourselves: nobody will continue us

    Left to wait it is the kernel that lets a SIGCONT take it back, and that stops us as soon as we let it.
    """

    def __init__(self, signals: Iterable[Signals]) -> None:
        if sys.platform == "darwin":
            self._queue = select.kqueue()
            watched = [select.kevent(each, select.KQ_FILTER_SIGNAL, select.KQ_EV_ADD) for each in signals]
            self._queue.control(watched, 0)
            return
        libc = ctypes.CDLL(None, use_errno=True)
        wanted = ctypes.create_string_buffer(128)  # sigset_t, of 1024 bits in every libc
        for each in signals:
            libc.sigaddset(wanted, int(each))
        fd = libc.signalfd(-1, wanted, os.O_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), f"signalfd: {os.strerror(ctypes.get_errno())}")
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)  # open as long as the process

    def wait(self, seconds: float | None) -> None:
        """Return when it rings, or after so long; perhaps earlier."""
        if sys.platform == "darwin":
            self._queue.control(None, 1, seconds)
        else:
            self._poll.poll(None if seconds is None else min(seconds, _AT_MOST) * 1000)


class _Relay:
    def __init__(self, process: Process, taken: frozenset[Signals], bell: _Bell) -> None:
        self._process = process
        self._taken = taken
        self._bell = bell
        self._foreground = bool(process.command.option("foreground"))
        self.timed_out = False

    def watch(self) -> None:
        """Pass signals on and keep the deadline, until the child has ended; it is not reaped."""
        began = time.monotonic()
        timeout, grace = (self._process.command.option(name) for name in ("timeout", "grace"))
        due = None if timeout is None else began + timeout
        killed = False
        while self._state() in ("running", "stopped"):
            now = time.monotonic()
            if due is None or now < due:
                self._serve(None if due is None else due - now)
            elif killed:
                raise ProcessTimeout(
                    f"{self._process.command} (pid {self._process.pid}) is in uninterruptible sleep: "
                    "not even SIGKILL ends it",
                    command=self._process.command,
                    timeout=now - began,
                )
            elif grace and not self.timed_out:
                self.timed_out = True
                self._process.signal_scope(Signals.SIGTERM)
                self._process.signal_scope(Signals.SIGCONT)  # a stopped child could not take the hint
                due = now + grace
            else:
                self.timed_out = killed = True
                self._process.signal_scope(Signals.SIGKILL)
                self._process.kill()  # should it have left its group
                due = now + _DIES_WITHIN

    def _state(self) -> str:
        """As Process.state, but a child that has ended is left to be reaped."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._process.state
        how = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            info = os.waitid(os.P_PID, self._process.pid, how)
        except ChildProcessError:  # Process.kill looks first, and reaps what it finds ended
            return self._process.state
        if info is None:
            return "running"
        return "stopped" if info.si_code == os.CLD_STOPPED else "exited"

    def _serve(self, seconds: float | None) -> None:
        """Pass on a signal that waits, or else wait for one, so long at most."""
        waiting = signal.sigpending() & self._taken
        if not waiting:
            self._bell.wait(seconds)
            return
        # SIGCONT first. A SIGCHLD may have come while we were stopping, for the stop that we had seen already; taken
        # before the SIGCONT, it would find the child still stopped and stop us again, and that drops the SIGCONT.
        number = Signals.SIGCONT if Signals.SIGCONT in waiting else min(waiting)
        if number == Signals.SIGTSTP:
            self._stop(self._stopping_signal())
            return
        by_kernel = self._accept(number)
        if number == Signals.SIGCHLD:
            # With the terminal lent, Ctrl-Z stops the child alone, while the shell that could continue it waits for us.
            if self._foreground and self._state() == "stopped":
                os.kill(os.getpid(), Signals.SIGTSTP)
                self._stop(None)
        elif number == Signals.SIGCONT:
            self._continue()
        elif not (by_kernel and number in _FROM_KEYS and os.getpgid(self._process.pid) == os.getpgrp()):
            self._process.signal_scope(number)
        # Else the terminal has sent it to the child too, and a second Ctrl-C would mean "at once!" to many a program.

    def _accept(self, number: int) -> bool:
        """Take a signal; whether the kernel itself sent it. Where nobody knows, the keyboard is the likelier."""
        if hasattr(signal, "sigtimedwait"):
            info = signal.sigtimedwait({number}, 0)
            return info is not None and info.si_code > 0
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        return True

    # ---- job control -------------------------------------------------------------------------------------------

    def _stopping_signal(self) -> Signals:
        # In a session of its own the child has no parent who could continue it, and the kernel drops SIGTSTP there.
        own_session = os.getsid(self._process.pid) != os.getsid(0)
        return Signals.SIGSTOP if own_session else Signals.SIGTSTP

    def _stop(self, for_child: Signals | None) -> None:
        """Stop the scope, and then ourselves by the SIGTSTP that waits, unless a SIGCONT takes that back.

        If the terminal stopped the child too, the second signal does nothing: the SIGCONT that ends the stop drops it.
        In an orphaned process group, which no shell could continue, the kernel does not stop us, and we go on.
        """
        if for_child is not None:
            self._process.signal_scope(for_child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {Signals.SIGTSTP})
        signal.pthread_sigmask(signal.SIG_BLOCK, {Signals.SIGTSTP})

    def _continue(self) -> None:
        if self._foreground:
            self._lend_terminal()
        self._process.signal_scope(Signals.SIGCONT)

    def _lend_terminal(self) -> None:
        """After `fg` the terminal is our group's, and the child's turn; after `bg` it is neither's."""
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.tcgetpgrp(terminal) == os.getpgrp():
                os.tcsetpgrp(terminal, os.getpgid(self._process.pid))
        finally:
            os.close(terminal)
