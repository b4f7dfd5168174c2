"""What a spawn asks of the kernel, as strace sees it: no option but a change of user or group and a v1 cgroup leaves
the fast path, and a second run of a command makes few system calls."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import needs_clone, needs_clone3, needs_strace, trace

from corelane.process.cgroup import find

pytestmark = [needs_clone, needs_clone3, needs_strace]

FAST = {"CLONE_VM", "CLONE_VFORK", "CLONE_PIDFD", "CLONE_CLEAR_SIGHAND"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    given: as Python source, with the names that the traced script has.
    seen: a call of the child that proves that it was carried out.
    """

    given: str
    seen: str = "execve("
    needs: str = ""
    thread: bool = False


STAYS = {
    "nothing": Option(""),
    "arguments": Option("args=['true', 'a', 'b']", '["true", "a", "b"]'),
    "candidates in PATH": Option("args=['true'], env_add={'PATH': '/nonexistent:/bin'}", '"/nonexistent/true"'),
    "program": Option("program='/bin/true', args=['x']", '["x"]'),
    "env": Option("env={'A': 'b'}", "/* 1 var */"),
    "env_add, env_remove": Option("env_add={'A': 'b'}, env_remove=['PATH']"),
    "cwd": Option("cwd='/tmp'", 'chdir("/tmp")'),
    "cwd, a descriptor": Option("cwd=directory", "fchdir("),
    "capture": Option("capture=True", "dup3("),
    "stdin, stderr": Option("stdin=b'x', stdout=cl.DEVNULL, stderr=cl.STDOUT", '"/dev/null"'),
    "fds": Option("fds={9: null, null: 1}", ", 9, 0)"),
    "close_others=True": Option("close_others=True", "CLOSE_RANGE_CLOEXEC"),
    "close_others=False": Option("close_others=False"),
    "umask": Option("umask=0o077", "umask(077)"),
    "process_group, new": Option("process_group=0", "setpgid(0, 0)"),
    "process_group, ours": Option("process_group=os.getpgrp()", "setpgid(0, "),
    "new_session": Option("new_session=True", "setsid("),
    "controlling_terminal": Option("new_session=True, controlling_terminal=second", "TIOCSCTTY"),
    "foreground": Option("foreground=True, stdin=first", "TIOCSPGRP"),
    "signal_mask": Option("signal_mask=['USR1']", "SIG_SETMASK, [USR1]"),
    "signal_defaults": Option("signal_defaults=['HUP']", "rt_sigaction(SIGHUP, {sa_handler=SIG_DFL"),
    "signal_ignores": Option("signal_ignores=['HUP']", "rt_sigaction(SIGHUP, {sa_handler=SIG_IGN"),
    "rlimits": Option("rlimits={'core': 0, 'nofile': 64}", "prlimit64(0, RLIMIT_NOFILE"),
    "nice": Option("nice=5", "setpriority("),
    "sched": Option("sched='batch'", "sched_setscheduler("),
    "sched, reset_on_fork": Option("sched='batch', reset_on_fork=True", "sched_setscheduler(0, "),
    "sched, a deadline": Option("sched=cl.cpu.Deadline(0.001, 0.1), best_effort=True", "sched_setattr("),
    "uclamp": Option("uclamp=(0, 512), best_effort=True", "sched_setattr("),
    "cpus": Option("cpus=os.sched_getaffinity(0)", "sched_setaffinity("),
    "memory_policy": Option("memory_policy='local', best_effort=True", "set_mempolicy("),
    "autogroup": Option("autogroup=1, new_session=True, best_effort=True", "/proc/self/autogroup"),
    "io_priority": Option("io_priority='idle'", "ioprio_set("),
    "oom_score_adj": Option("oom_score_adj=500", "oom_score_adj"),
    "die_with_parent=True": Option("die_with_parent=True", "PR_SET_PDEATHSIG"),
    "die_with_parent=False": Option("die_with_parent=False"),
    "die_with_parent, in a thread": Option("die_with_parent=True", "PR_SET_PDEATHSIG", thread=True),
    "no_new_privs": Option("no_new_privs=True", "PR_SET_NO_NEW_PRIVS"),
    "contain=group": Option("contain='group'", "setpgid(0, 0)"),
    "contain=none": Option("contain='none'"),
    "contain=cgroup": Option("contain='cgroup', cgroup=new_cgroup", needs="cgroup v2"),
    "cgroup": Option("cgroup=new_cgroup", needs="cgroup v2"),
    "all at once": Option(
        "umask=0o077, cwd=directory, fds={9: null}, new_session=True, controlling_terminal=second, nice=5, "
        "sched='batch', cpus=os.sched_getaffinity(0), io_priority='idle', oom_score_adj=500, no_new_privs=True, "
        "rlimits={'core': 0}, signal_mask=['USR1'], die_with_parent=True, capture=True, memory_policy='local', "
        "uclamp=(None, 1000), autogroup=3, reset_on_fork=True, best_effort=True",
        "PR_SET_NO_NEW_PRIVS",
    ),
}
FORKS = {
    "user": Option("user=12345", "setresuid(12345", needs="root"),
    "group": Option("group=os.getgid()", "setresgid("),
    "extra_groups": Option("extra_groups=[12345]", "setgroups(", needs="root"),
    "cgroup, v1": Option("cgroup=old_cgroup", "cgroup.procs", needs="cgroup v1"),
}

# Before each option it looks for a file named after it, so that the trace says which calls belong to which.
_SCRIPT = """
import fcntl, json, os, pty, sys, termios, threading
import corelane as cl
options, new_cgroup, old_cgroup = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
os.setsid()  # strace leads the session that it was started in
master, first = pty.openpty()
fcntl.ioctl(first, termios.TIOCSCTTY, 0)
null, directory = os.open(os.devnull, os.O_RDWR), os.open("/tmp", os.O_RDONLY)
cl.run(["true"])
done = {}
for name, given, thread in options:
    _, second = pty.openpty()  # a new one: a terminal belongs to one session
    given = eval(f"dict({given})")
    def run():
        done[name] = cl.run(given.pop("args", ["/bin/true"]), **given).strategy
    os.access(f"/begin/{name}", os.F_OK)
    if thread:
        worker = threading.Thread(target=run)
        worker.start()
        worker.join()
    else:
        run()
    os.access("/end", os.F_OK)
    os.close(second)
print(json.dumps(done))
"""


def _new_directory(*parents):
    for parent in parents:
        if parent is None:
            continue
        path = Path(parent, f"corelane-test-{os.getpid()}")
        try:
            path.mkdir()
        except OSError:
            continue
        return path
    return None


@pytest.fixture(scope="module")
def cgroups():
    """A new v2 and a new v1 cgroup, or None where there can be none."""
    new = _new_directory(find())
    old = _new_directory("/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpuacct")
    yield new, old
    for path in (new, old):
        if path is not None:
            path.rmdir()


def missing(option, cgroups):
    new, old = cgroups
    lacking = {"": None, "cgroup v2": not new, "cgroup v1": not old, "root": os.geteuid() != 0}
    return option.needs if lacking[option.needs] else None


@pytest.fixture(scope="module")
def traced(cgroups, tmp_path_factory):
    """All options in one traced script: name -> (strategy, the calls from /begin to /end)."""
    wanted = [
        (name, option.given, option.thread)
        for name, option in {**STAYS, **FORKS}.items()
        if not missing(option, cgroups)
    ]
    paths = [str(path or "") for path in cgroups]
    done, calls = trace(_SCRIPT, tmp_path_factory.mktemp("traced"), json.dumps(wanted), *paths)
    spans = zip(marks(calls, "/begin"), marks(calls, "/end"), strict=True)
    return {name: (done[name], calls[a + 1 : b]) for (name, *_), (a, b) in zip(wanted, spans, strict=True)}


def marks(calls, path):
    """Where the script looked for such a file."""
    return [i for i, call in enumerate(calls) if "access" in call.name and f'"{path}' in call.text]


def births(calls):
    """The calls that made a process, not a thread."""
    return [c for c in calls if c.name in ("clone", "clone3", "fork", "vfork") and "CLONE_THREAD" not in c.text]


def flags(call):
    found = call.argument("flags") or ""
    return set(found.split("|"))


@pytest.mark.parametrize("name", STAYS)
def test_an_option_stays_on_the_fast_path(name, traced, cgroups):
    lack = missing(STAYS[name], cgroups)
    if lack:
        pytest.skip(f"there is no writable {lack} here")
    strategy, calls = traced[name]
    [birth] = births(calls)
    assert (strategy, birth.name) == ("clone3", "clone3")
    wanted = FAST | ({"CLONE_INTO_CGROUP"} if "cgroup" in name else set())
    assert flags(birth) == wanted
    mine = [call for call in calls if call.pid == birth.result]
    before_exec = mine[: 1 + max(i for i, call in enumerate(mine) if call.name == "execve")]
    assert any(STAYS[name].seen in call.text for call in before_exec)


@pytest.mark.parametrize("name", FORKS)
def test_an_option_that_forks(name, traced, cgroups):
    lack = missing(FORKS[name], cgroups)
    if lack:
        pytest.skip(f"there is no {lack} here")
    strategy, calls = traced[name]
    [birth] = births(calls)
    assert (strategy, birth.name) == ("fork", "clone")
    assert not flags(birth) & {"CLONE_VM", "CLONE_FS", "CLONE_FILES"}
    assert any(FORKS[name].seen in call.text for call in calls if call.pid == birth.result)


def test_a_thread_does_not_clone_its_own_dying_child(traced):
    """The death signal would come when the thread ends; a thread that lives as long as the process does it."""
    _, calls = traced["die_with_parent, in a thread"]
    [birth] = births(calls)
    asking = next(call.pid for call in calls if call.name == "waitid" and f"si_pid={birth.result}," in call.text)
    assert birth.pid != asking


def test_the_main_thread_clones_by_itself(traced):
    _, calls = traced["die_with_parent=True"]
    assert not [call for call in calls if call.name == "futex"]


# What a run of a command that was run before asks of the kernel, in our process; docs/gotchas.md explains each. Beside
# these it may ask who we are, which costs next to nothing: a forked copy of us must not act on our children.
PLAIN = [
    "ioctl", "gettid", "rt_sigprocmask", "clone3", "rt_sigprocmask", "ppoll", "pidfd_send_signal", "waitid", "close",
]  # fmt: skip
MOST_GETPIDS = 4
# Two pipes: made, our copies of the child's ends closed, read to their ends, closed; the child's end is looked for once
# more when the pipes are at theirs first.
MOST_WITH_CAPTURE = (
    len(PLAIN) + MOST_GETPIDS + 2 * len(["pipe2", "close", "ppoll", "read", "close"]) + len(["waitid", "ppoll"])
)


@pytest.mark.parametrize("options", ["", "umask=0o077, cwd='/', nice=5, rlimits={'core': 0}, signal_ignores=['HUP']"])
def test_a_second_run_makes_few_calls(options, tmp_path):
    code = f"""
import os
import corelane as cl
for name, given in (("plain", {{}}), ("capture", {{"capture": True}})):
    command = cl.Command("/bin/true", **given{", " if options else ""}{options})
    command.run()
    os.access(f"/begin/{{name}}", os.F_OK)
    command.run()
    os.access("/end", os.F_OK)
"""
    _, calls = trace(code, tmp_path)
    plain, capture = (
        [call.name for call in calls[begin + 1 : end] if call.pid == calls[begin].pid]
        for begin, end in zip(marks(calls, "/begin"), marks(calls, "/end"), strict=True)
    )
    assert [name for name in plain if name != "getpid"] == PLAIN
    assert plain.count("getpid") <= MOST_GETPIDS
    assert set(capture) <= {*PLAIN, "getpid", "pipe2", "read"}
    assert len(capture) <= MOST_WITH_CAPTURE
