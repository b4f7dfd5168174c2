"""GOTCHAS "clone, vfork": each trap as a test that fails when its handling is taken away; docs/gotchas.md tells
more."""

import errno
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import (
    PLATFORM,
    STRATEGIES,
    about,
    descriptors,
    every_strategy,
    needs_clone,
    needs_linux,
    needs_root,
    needs_strace,
    script,
    signal_bits,
    trace,
    wait_until,
)

import corelane as cl
from corelane._ffi import ffi, lib

CSRC = Path(__file__).resolve().parent.parent / "csrc"
CC = os.environ.get("CC", "cc").split()
needs_cc = pytest.mark.skipif(not shutil.which(CC[0]), reason="there is no C compiler here")
CLONES = [strategy for strategy in STRATEGIES if strategy != "posix_spawn"]
every_clone = pytest.mark.parametrize("strategy", CLONES)
HELD = [strategy for strategy in CLONES if strategy.values != ("fork",)]


# ---- 1: signals between clone and exec -------------------------------------------------------------------------------


@needs_strace
@every_strategy
def test_no_handler_of_ours_runs_in_the_child(strategy, tmp_path):
    """A handler that ran between clone and exec would write into our memory, and into our wake-up pipe.

    SIGURG, which by default is ignored, comes when the child begins to work and again in its middle."""
    code = """
import json, os, signal, sys
import corelane as cl
ours = []
signal.signal(signal.SIGURG, lambda *_: ours.append(os.getpid()))
read, write = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(write, warn_on_full_buffer=False)
code = cl.Command("true", contain="group", strategy=sys.argv[1]).spawn().wait()
try:
    woken = len(os.read(read, 100))
except BlockingIOError:
    woken = 0
print(json.dumps([code, len(ours), woken]))
"""
    inject = ["rt_sigaction:signal=URG:when=1", "setpgid:signal=URG"]
    printed, _ = trace(code, tmp_path, strategy, inject=inject, calls="setpgid")
    assert printed == [0, 0, 0]


@needs_strace
@every_strategy
def test_all_signals_are_blocked_around_the_clone(strategy, tmp_path):
    """All of them: libc's own two (32, 33), which its functions leave out, interrupt a child as well."""
    code = "import sys, corelane as cl; cl.Command('true', strategy=sys.argv[1]).spawn().wait()"
    _, calls = trace(code, tmp_path, strategy, calls="rt_sigprocmask,clone,clone3,vfork,fork")
    at = next(i for i, call in enumerate(calls) if "clone" in call.name or "fork" in call.name)
    before = [call.text for call in calls[:at] if call.pid == calls[at].pid and call.name == "rt_sigprocmask"]
    after = [call.text for call in calls[at:] if call.pid == calls[at].pid and call.name == "rt_sigprocmask"]
    assert "SIG_SETMASK, ~[], [], 8" in before[-1] or "SIG_BLOCK, ~[]" in before[-1]
    assert any("SIG_SETMASK, ~[], [], 8" in text for text in before)
    assert "SIG_SETMASK, [], " in after[-1]


@needs_linux
@every_strategy
def test_caught_signals_become_default_and_ignored_ones_stay_ignored(strategy):
    """CLONE_CLEAR_SIGHAND resets handlers and keeps SIG_IGN, without which `nohup` would mean nothing; the loop of the
    other strategies must do the same."""
    before = {
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, lambda *_: None),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    }
    try:
        bits = signal_bits(strategy=strategy)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert signal.SIGHUP in bits["SigIgn"]
    assert signal.SIGUSR1 not in bits["SigIgn"] | bits["SigCgt"]


# ---- 2: the parent's stack, errno ------------------------------------------------------------------------------------


@needs_clone
@needs_strace
@pytest.mark.parametrize("strategy", HELD)
def test_the_child_runs_on_a_guarded_stack_of_its_own(strategy, tmp_path):
    """On our own frame it would overwrite what we return to; without a guard page an overflow would be silent."""
    code = "import sys, corelane as cl; cl.Command('true', strategy=sys.argv[1]).spawn().wait()"
    _, calls = trace(code, tmp_path, strategy, calls="mmap,mprotect,clone,clone3")
    clones = [i for i, call in enumerate(calls) if "CLONE_VFORK" in call.text]
    clone = calls[clones[-1]]
    if clone.name == "clone3":
        low = int(clone.argument("stack"), 16)
        high = low + int(clone.argument("stack_size"), 16)
    else:
        high = int(clone.argument("child_stack"), 16)
        low = high - 1
    stacks = [call for call in calls[: clones[0]] if call.name == "mmap" and "MAP_STACK" in call.text]
    begin = next(s.result for s in stacks if s.result <= low < s.result + _size(s) and high <= s.result + _size(s))
    guards = [c for c in calls if c.name == "mprotect" and c.text.startswith(f"mprotect({begin:#x},")]
    assert len(guards) == 1
    assert "PROT_NONE" in guards[0].text
    assert guards[0].result == 0
    guarded = begin + _size(guards[0])
    assert guarded == low if clone.name == "clone3" else guarded < low


def _size(call):
    return int(call.text.split(", ")[1], 0)


@every_clone
@pytest.mark.parametrize("program", ["true", "/nonexistent"])
def test_errno_is_left_alone(strategy, program):
    """A child on our memory has our thread's errno too."""
    packed = cl.Command(program, cwd="/", strategy=strategy).packed("spawn")
    made = ffi.new("cl_process **")
    assert lib.cl_process_new(made) == 0
    process = ffi.gc(made[0], lib.cl_process_free)
    ffi.errno = errno.EXFULL
    rc = lib.cl_process_spawn(process, packed.command, packed.launch, ffi.NULL)
    after = ffi.errno
    assert rc == -errno.ENOENT if program == "/nonexistent" else rc > 0
    assert after == errno.EXFULL
    assert lib.cl_process_wait(process, 10**10) == (1 if rc > 0 else -errno.EINVAL)


# ---- 3: what a child changes is its own ------------------------------------------------------------------------------


@every_strategy
def test_nothing_a_child_sets_leaks_into_us(strategy, tmp_path):
    """With CLONE_FS its umask and cwd were ours, with CLONE_FILES its descriptors."""
    target = max(descriptors()) + 7
    umask = os.umask(0o022)
    try:
        before = os.getcwd(), descriptors(), os.getpriority(os.PRIO_PROCESS, 0), signal.pthread_sigmask(0, [])
        with open(os.devnull) as null:
            child = about(
                cwd=tmp_path, umask=0o077, fds={target: null}, nice=5, signal_mask=["USR1"], strategy=strategy
            )
        after = os.getcwd(), descriptors(), os.getpriority(os.PRIO_PROCESS, 0), signal.pthread_sigmask(0, [])
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    assert child["cwd"] == os.path.realpath(tmp_path)
    assert child["umask"] == 0o077
    assert target in child["fds"]
    assert child["nice"] == 5
    assert child["blocked"] == [signal.SIGUSR1]
    assert after == before


# ---- 4, 5: a change of user ------------------------------------------------------------------------------------------


@needs_root
@needs_strace
def test_a_change_of_user_disturbs_no_other_thread(tmp_path):
    """libc's setuid signals every thread it knows of and waits for them all; in the child of a fork those threads are
    not there, and signalling them by number is signalling ours."""
    code = """
import json, os, threading
import corelane as cl
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
out = cl.run(["id"], user=12345, group=23456, extra_groups=[34567], capture=True)
stop.set()
print(json.dumps([out.text, out.strategy]))
"""
    printed, calls = trace(code, tmp_path, calls="tgkill,tkill,setresuid,setresgid,setgroups")
    if PLATFORM == "linux":
        assert printed[1] == "fork"
    assert printed[0].split() == ["uid=12345", "gid=23456", "groups=23456,34567"]
    assert [call.name for call in calls] == ["setgroups", "setresgid", "setresuid"]


@needs_root
@needs_linux
def test_a_change_of_user_leaves_us_dumpable():
    """On a shared address space the flag that forbids core dumps and ptrace would have become ours."""
    code = """
import ctypes, json
import corelane as cl
dumpable = lambda: ctypes.CDLL(None).prctl(3)  # PR_GET_DUMPABLE
print(json.dumps([dumpable(), cl.run(["id", "-u"], user=12345, capture=True).text, dumpable()]))
"""
    assert script(code) == [1, "12345\n", 1]


@needs_clone
@pytest.mark.parametrize("strategy", HELD)
def test_a_change_of_group_is_refused_on_a_shared_address_space(strategy):
    assert cl.run(["true"], group=os.getgid()).strategy == "fork"
    with pytest.raises(ValueError, match="needs strategy 'fork'"):
        cl.Command("true", group=os.getgid(), strategy=strategy)
    # The core does not rely on its binding.
    packed = cl.Command("true", strategy=strategy).packed("spawn")
    packed.command.options |= lib.CL_OPT_GID
    packed.command.gid = os.getgid()
    made = ffi.new("cl_process **")
    assert lib.cl_process_new(made) == 0
    process = ffi.gc(made[0], lib.cl_process_free)
    assert lib.cl_process_spawn(process, packed.command, packed.launch, ffi.NULL) == -errno.EINVAL


# ---- 6: a child that does not share our memory -----------------------------------------------------------------------


@needs_clone
@needs_cc
@pytest.mark.parametrize("strategy", [*HELD, "auto"])
def test_errors_are_heard_where_clone_shares_no_memory(strategy, tmp_path):
    """Some emulators run CLONE_VM|CLONE_VFORK as a plain fork. Here a wrapper around libc's clone does."""
    (tmp_path / "plain.c").write_text("""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <stdarg.h>
int clone(int (*work)(void *), void *stack, int flags, void *argument, ...)
{
    int (*real)(int (*)(void *), void *, int, void *, ...) = dlsym(RTLD_NEXT, "clone");
    va_list more;
    va_start(more, argument);
    void *pidfd = va_arg(more, void *);
    va_end(more);
    return real(work, stack, flags & ~(CLONE_VM | CLONE_VFORK), argument, pidfd);
}
""")
    library = tmp_path / "plain.so"
    subprocess.run([*CC, "-shared", "-fPIC", "-o", library, tmp_path / "plain.c", "-ldl"], check=True)
    code = """
import json, sys
import corelane as cl
options = {"strategy": sys.argv[1]}
try:
    stage = cl.run(["/nonexistent"], **options)
except FileNotFoundError as error:
    stage = error.stage
print(json.dumps([stage, cl.run(["true"], **options).strategy]))
"""
    env = {**os.environ, "LD_PRELOAD": str(library)}
    assert script(code, strategy, env=env) == ["exec", "fork"]


# ---- 7: what is held while the child is on its way to exec -----------------------------------------------------------


@every_strategy
def test_other_threads_run_while_a_child_is_stuck_before_exec(strategy, tmp_path):
    """The program is held open for writing, so exec fails and is tried again; it can only succeed because another
    thread, meanwhile, makes the holder let go."""
    code = """
import json, shutil, subprocess, sys, threading
import corelane as cl
program = sys.argv[1] + "/program"
shutil.copy(shutil.which("true"), program)
command = cl.Command(program, strategy=sys.argv[2])

def attempt():
    outcomes = []
    def spawn():
        try:
            outcomes.append(command.spawn().wait())
        except cl.SpawnFailed as error:
            outcomes.append(error.strerror)
    with subprocess.Popen(["sh", "-c", 'exec 3>>"$0"; echo; read _', program], stdin=-1, stdout=-1) as held:
        held.stdout.readline()
        thread = threading.Thread(target=spawn)
        thread.start()
        thread.join(0.01)  # long enough for a spawn that does not try again to have failed
        held.kill()
        held.wait()
        thread.join()
    return outcomes[0]

# The tries last a tenth of a second, which a busy machine may spend elsewhere; without them not one attempt succeeds.
for _ in range(10):
    outcome = attempt()
    if outcome == 0:
        break
print(json.dumps(outcome))
"""
    assert script(code, tmp_path, strategy) == 0


# ---- 8: what the child may call --------------------------------------------------------------------------------------


@needs_linux
@needs_cc
def test_the_child_calls_the_kernel_and_nothing_else(tmp_path):
    """No malloc, no stdio, no lock, nothing that libc could keep in thread-local storage: its code has no such name."""
    allowed = {
        "clock_gettime",
        "memcpy",
        "memset",
        "__stack_chk_fail",
        "syscall",
        "__errno_location",
        "_GLOBAL_OFFSET_TABLE_",
        "environ",  # which the parent reads through sys_linux.c
    }
    defined, wanted = set(), set()
    for name in ("spawn_child.c", "sys_linux.c"):
        made = tmp_path / f"{name}.o"
        flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", f"-I{CSRC}"]
        subprocess.run([*CC, *flags, "-c", CSRC / name, "-o", made], check=True)
        listed = subprocess.run(["nm", made], check=True, capture_output=True, text=True).stdout
        for line in listed.splitlines():
            *_, kind, symbol = line.split()
            (wanted if kind in "Uw" else defined).add(symbol)
    assert wanted - defined <= allowed


@needs_clone
def test_the_child_has_no_stack_protector(tmp_path):
    """It would be read from the storage of a thread that may have ended, where nobody waits for the child."""
    made = tmp_path / "child.o"
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", f"-I{CSRC}", "-fstack-protector-all"]
    subprocess.run([*CC, *flags, "-c", CSRC / "spawn_child.c", "-o", made], check=True)
    listed = subprocess.run(["nm", made], check=True, capture_output=True, text=True).stdout
    assert "__stack_chk" not in listed


@needs_clone
def test_fork_hooks_do_not_run():
    """They belong to a program that forks to go on as two; a lock taken in one could never be released here."""
    code = """
import ctypes, json, os
import corelane as cl
ran = []
hook = ctypes.CFUNCTYPE(None)
hooks = [hook(lambda: ran.append("prepare")), hook(lambda: ran.append("parent")), hook(lambda: ran.append("child"))]
libc = ctypes.CDLL(None)
register = getattr(libc, "__register_atfork", None) or libc.pthread_atfork
assert register(*hooks, None) == 0
os.register_at_fork(before=lambda: ran.append("before"), after_in_parent=lambda: ran.append("after"))
assert [cl.run(["true"], strategy=s).strategy for s in ("clone3", "vfork", "fork")] == ["clone3", "vfork", "fork"]
corelane = list(ran)
if (pid := os.fork()) == 0:
    os._exit(0)
os.waitpid(pid, 0)
print(json.dumps([corelane, len(ran)]))
"""
    assert script(code) == [[], 4]


# ---- 9: clone3 is refused --------------------------------------------------------------------------------------------

_THREE_RUNS = """
import json, sys
import corelane as cl
done = []
for _ in range(3):
    try:
        done.append(cl.run(["true"]).strategy)
    except cl.SpawnFailed as error:
        done.append([type(error).__mro__[1].__name__, error.stage])
print(json.dumps(done))
"""


@needs_clone
@needs_strace
@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM", "EINVAL"])
def test_a_refused_clone3_is_remembered(refusal, tmp_path):
    """ENOSYS: before 5.3, or a newer container runtime; EPERM: an older one; EINVAL: before CLONE_CLEAR_SIGHAND."""
    printed, calls = trace(_THREE_RUNS, tmp_path, calls="clone3,clone", inject=[f"clone3:error={refusal}"])
    assert printed == ["vfork"] * 3
    assert [call.name for call in calls].count("clone3") == 1


@needs_clone
@needs_strace
@pytest.mark.parametrize("shortage", ["EAGAIN", "EMFILE", "ENOMEM"])
def test_a_shortage_is_not_remembered(shortage, tmp_path):
    printed, _ = trace(_THREE_RUNS, tmp_path, calls="clone3", inject=[f"clone3:error={shortage}:when=1"])
    assert printed[0][1] == "clone"
    assert printed[1:] == ["clone3", "clone3"]


@needs_clone
@needs_strace
def test_a_strategy_that_was_asked_for_is_not_replaced(tmp_path):
    code = """
import json
import corelane as cl
try:
    print(json.dumps(cl.run(["true"], strategy="clone3").strategy))
except cl.SpawnFailed as error:
    print(json.dumps([error.stage, error.errno]))
"""
    printed, _ = trace(code, tmp_path, calls="clone3", inject=["clone3:error=ENOSYS"])
    assert printed == ["clone", errno.ENOSYS]


@pytest.fixture
def cgroup():
    """A new cgroup v2 directory, removed afterwards."""
    from corelane.process.cgroup import find

    where = find()
    path = Path(where or "/nonexistent", f"corelane-test-{os.getpid()}")
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup v2 can be made here: {error}")
    yield path
    path.rmdir()


_ON_ICE = """
import json, sys
import corelane as cl
try:
    cl.run(["true"], cgroup=sys.argv[1])
except cl.CgroupUnavailable as error:
    print(json.dumps(str(error)))
"""


@needs_linux
def test_a_frozen_cgroup_is_refused(cgroup):
    """A child born frozen would hold its parent in clone for ever."""
    (cgroup / "cgroup.freeze").write_text("1")
    try:
        assert "frozen" in script(_ON_ICE, cgroup, timeout=10)
    finally:
        (cgroup / "cgroup.freeze").write_text("0")


@needs_linux
def test_so_is_an_old_one():
    """Its child would freeze when it has moved itself there, before it could say how it went."""
    path = Path(f"/sys/fs/cgroup/freezer/corelane-test-{os.getpid()}")
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"there is no writable v1 freezer: {error}")
    (path / "freezer.state").write_text("FROZEN")
    try:
        assert "frozen" in script(_ON_ICE, path, timeout=10)
    finally:
        (path / "freezer.state").write_text("THAWED")
        wait_until(lambda: not (path / "cgroup.procs").read_text(), "the end of all in the freezer")
        path.rmdir()


# ---- 9c, 9d ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def old_cgroup():
    """A new directory in a v1 hierarchy, removed afterwards."""
    for controller in ("pids", "freezer", "cpuacct"):
        path = Path("/sys/fs/cgroup", controller, f"corelane-test-{os.getpid()}")
        try:
            path.mkdir()
        except OSError:
            continue
        yield path
        path.rmdir()
        return
    pytest.skip("there is no writable cgroup v1 hierarchy here")


@needs_linux
def test_joining_an_old_cgroup_forks(old_cgroup):
    """The move takes milliseconds, and from a cpuset it would move the memory that a CLONE_VM child shares with us."""
    done = cl.run(["cat", "/proc/self/cgroup"], cgroup=old_cgroup, capture=True)
    assert f"/{old_cgroup.name}\n" in done.text
    if PLATFORM == "linux":
        assert done.strategy == "fork"
        with pytest.raises(cl.SpawnFailed) as failure:
            cl.run(["true"], cgroup=old_cgroup, strategy="clone3")
        assert (failure.value.stage, failure.value.errno) == ("prepare", errno.EINVAL)


@needs_linux
def test_an_old_cgroup_cannot_contain(old_cgroup):
    """It has no cgroup.kill: what is in it would live on, while the result said that it was contained."""
    with pytest.raises(cl.CgroupUnavailable, match=r"cgroup\.kill"):
        cl.run(["true"], contain="cgroup", cgroup=old_cgroup)
    with pytest.raises(cl.CgroupUnavailable, match=r"cgroup\.kill"):
        cl.Command("true", contain="cgroup", cgroup=old_cgroup).spawn()
    assert [entry.name for entry in os.scandir(old_cgroup) if entry.is_dir()] == []


def test_a_deadline_is_more_than_a_name():
    """As a mere name: it has three numbers. With a pinned mask it is EPERM, and without reset-on-fork its child cannot
    fork: what is made of these is in test_cpu_priority.py."""
    with pytest.raises(ValueError, match=r"give cpu\.Deadline"):
        cl.Command("true", sched="deadline")


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_names_tests_that_exist():
    tests = Path(__file__).parent
    existing = {
        name for path in tests.glob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    page = (tests.parent / "docs" / "gotchas.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named - existing == set()
    of_traps = {
        name
        for path in tests.glob("test_gotchas_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert of_traps - named <= {"test_the_page_names_tests_that_exist", "test_nothing_of_all_this_leaks"}
