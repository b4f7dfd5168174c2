"""Priorities and memory policy: what is set is what the kernel says; what it refuses, in words; and the same as options
of a spawn, by every strategy."""

import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading

import pytest
from helpers import PATIENCE, every_road, needs_linux, needs_root, needs_strace, script, trace

import corelane as cl
from corelane import cpu
from corelane._ffi import ffi, lib
from corelane.cpu import policies, refusals

pytestmark = needs_linux

QUARTER = cpu.Deadline(0.0025, 0.005, 0.01) if sys.platform == "linux" else None


@pytest.fixture
def child():
    """A sleeping process of one thread."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def _granted(**given):
    """Whether a sleeping child may have it, asked of chrt and not of us."""
    if not shutil.which("chrt"):
        return False
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            return subprocess.run(["chrt", *given["chrt"], str(process.pid)], capture_output=True).returncode == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def may_fifo():
    if not _granted(chrt=["-f", "-p", "1"]):
        pytest.skip("this machine grants us no real-time scheduling (or has no chrt to ask with)")


@pytest.fixture(scope="module")
def may_deadline():
    if not _granted(chrt=["-d", "-T", "1000000", "-D", "10000000", "-P", "10000000", "-p", "0"]):
        pytest.skip("this machine grants us no deadlines (or has no chrt to ask with)")


has_clamps = sys.platform == "linux" and cpu.get_priority().uclamp is not None
has_autogroup = os.path.exists("/proc/self/autogroup")
has_numa = os.path.isdir("/sys/devices/system/node")
# The first that is not there: what is beyond those that the kernel is built for is refused with all the rest.
FAR_NODE = next(node for node in range(2000) if not os.path.exists(f"/sys/devices/system/node/node{node}"))


# ---- values ----


def test_a_deadline_is_a_value():
    made = cpu.Deadline(0.001, 0.01)
    assert made == cpu.Deadline(0.001, 0.01, 0.01)
    assert (made.runtime, made.deadline, made.period) == (0.001, 0.01, 0.01)
    assert made.nanoseconds == (1_000_000, 10_000_000, 10_000_000)
    assert pickle.loads(pickle.dumps(made)) == made
    assert cl.Command("x", sched=made).option("sched") == made
    assert hash(cl.Command("x", sched=made)) == hash(cl.Command("x", sched=cpu.Deadline(0.001, 0.01)))
    command = cl.Command("x", sched=made, memory_policy=("bind", 0), uclamp=(None, 5))
    assert pickle.loads(pickle.dumps(command)) == command


@pytest.mark.parametrize("spans", [(0, 1), (2, 1), (0.5, 1, 0.9), (1e-7, 1), (-1, 1), (float("nan"), 1)])
def test_what_is_no_deadline(spans):
    with pytest.raises(ValueError, match="Deadline"):
        cpu.Deadline(*spans)
    with pytest.raises(TypeError, match="Deadline: runtime"):
        cpu.Deadline("1", 2)
    with pytest.raises(ValueError, match="Deadline"):
        cpu.Deadline(1, 2, 3)._replace(**dict(zip(cpu.Deadline._fields, spans, strict=False)))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: cpu.set_nice(20), ValueError, "nice must be from -20 to 19"),
        (lambda: cpu.set_nice(1.0), TypeError, "nice must be an integer"),
        (lambda: cpu.set_nice(1, 5, tid=5), ValueError, "not both"),
        (lambda: cpu.set_nice(1, 5, group=5), ValueError, "one of pid=, tid=, group= and user="),
        (lambda: cpu.set_nice(1, group=5, user=5), ValueError, "not both"),
        (lambda: cpu.set_nice(1, group=0), ValueError, "group cannot be 0"),
        (lambda: cpu.get_nice(user=-1), ValueError, "a user's number"),
        (lambda: cpu.set_priority(sched="fifo"), ValueError, r"'fifo' needs a priority .*\('fifo', 10\)"),
        (lambda: cpu.set_priority(sched=("fifo", 100)), ValueError, "from 1 to 99"),
        (lambda: cpu.set_priority(sched=("batch", 1)), ValueError, "from 0 to 0"),
        (lambda: cpu.set_priority(sched="deadline"), ValueError, r"give cpu\.Deadline"),
        (lambda: cpu.set_priority(sched="fast"), ValueError, "must be one of other, fifo"),
        (lambda: cpu.set_priority(reset_on_fork=True), ValueError, "give sched= too"),
        (lambda: cpu.set_priority(sched="batch", reset_on_fork=1), TypeError, "True or False"),
        (lambda: cpu.set_priority(uclamp=5), TypeError, "a pair like"),
        (lambda: cpu.set_priority(uclamp=(9, 8)), ValueError, "9, is above the highest, 8"),
        (lambda: cpu.set_priority(uclamp=(0, 1025)), ValueError, "from 0 to 1024"),
        (lambda: cpu.set_priority(uclamp=(None, None)), ValueError, "leave it out"),
        (lambda: cpu.set_io_priority("fast"), ValueError, "'idle' or a pair"),
        (lambda: cpu.set_io_priority(("realtime", 8)), ValueError, "from 0 to 7"),
        (lambda: cpu.set_memory_policy("bind"), ValueError, "give a pair"),
        (lambda: cpu.set_memory_policy(("local", 0)), ValueError, "takes no nodes"),
        (lambda: cpu.set_memory_policy(("bind", "1-0")), ValueError, "runs backwards"),
        (lambda: cpu.set_memory_policy(("bind", "x")), ValueError, "neither a node"),
        (lambda: cpu.set_memory_policy(("bind", [])), ValueError, "at least one node"),
        (lambda: cpu.set_memory_policy(("bind", 5000)), ValueError, "1023"),
        (lambda: cpu.set_memory_policy(("preferred", "0-1")), ValueError, "takes one node, not 0-1"),
        (lambda: cpu.set_qos("fast"), ValueError, "qos must be one of"),
        (cpu.get_qos, cl.NotSupported, "macOS"),
        (lambda: cpu.set_qos("utility"), cl.NotSupported, "macOS"),
    ],
)
def test_bad_input_changes_nothing(call, kind, message):
    before = cpu.get_priority(), cpu.get_memory_policy() if has_numa else None
    with pytest.raises(kind, match=message):
        call()
    assert (cpu.get_priority(), cpu.get_memory_policy() if has_numa else None) == before


# ---- nice ----


def test_nice_of_a_process(child):
    assert cpu.get_nice(child) == os.getpriority(os.PRIO_PROCESS, child)
    assert cpu.set_nice(19, child) == ()
    assert os.getpriority(os.PRIO_PROCESS, child) == cpu.get_nice(child) == cpu.get_priority(child).nice == 19


def test_nice_of_this_thread_alone():
    """To the kernel a nice value is a thread's, whatever POSIX says."""
    seen = []

    def work():
        cpu.set_nice(cpu.get_nice() + 3)
        seen.append((cpu.get_nice(), cpu.get_nice(tid=threading.get_native_id())))

    before = cpu.get_nice()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before + 3, before + 3)]
    assert cpu.get_nice() == before


def test_nice_of_all_threads_of_a_process():
    code = """
import threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("ready", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            cpu.set_nice(7, process.pid)
            tids = [int(tid) for tid in os.listdir(f"/proc/{process.pid}/task")]
            assert len(tids) == 4
            assert [os.getpriority(os.PRIO_PROCESS, tid) for tid in tids] == [7] * 4
            cpu.set_priority(process.pid, sched="batch", io_priority="idle")
            assert {os.sched_getscheduler(tid) for tid in tids} == {os.SCHED_BATCH}
            assert {cpu.get_io_priority(tid=tid) for tid in tids} == {"idle"}
        finally:
            process.kill()


def test_nice_of_a_group(child):
    with cl.Command("sleep", "1000", contain="group").spawn() as leader:
        with cl.Command("sleep", "1000", process_group=leader.pid).spawn() as other:
            cpu.set_nice(11, group=leader.pid)
            assert [os.getpriority(os.PRIO_PROCESS, p.pid) for p in (leader, other)] == [11, 11]
            cpu.set_nice(13, other.pid)
            assert cpu.get_nice(group=leader.pid) == 11  # the lowest
            cpu.set_io_priority(("best-effort", 6), group=leader.pid)
            assert cpu.get_io_priority(other.pid) == ("best-effort", 6)
            other.kill()
        leader.kill()
    assert cpu.get_nice(child) == cpu.get_nice()


@needs_root
def test_nice_of_a_user():
    """One of our own making, whose number nobody has."""
    nobody = 2_000_000_123
    with cl.Command("sleep", "1000", user=nobody, group=nobody, cwd="/").spawn() as process:
        cpu.set_nice(9, user=nobody)
        assert cpu.get_nice(user=nobody) == cpu.get_nice(process.pid) == 9
        process.kill()
    with pytest.raises(ProcessLookupError, match="all of user 2000000123"):
        cpu.get_nice(user=nobody)


# ---- policies ----


@pytest.mark.parametrize("sched", ["other", "batch", "idle"])
@pytest.mark.parametrize("reset", [None, True])
def test_a_policy_of_anybodys(sched, reset, child):
    cpu.set_nice(5, child)
    assert cpu.set_priority(child, sched=sched, reset_on_fork=reset) == ()
    found = cpu.get_priority(child)
    assert (found.sched, found.reset_on_fork, found.nice) == (sched, bool(reset), 5)
    assert os.sched_getscheduler(child) == policies.POLICIES[sched] | (os.SCHED_RESET_ON_FORK if reset else 0)


@pytest.mark.parametrize("sched", [("fifo", 1), ("rr", 2)])
def test_a_real_time_policy(sched, child, may_fifo):
    cpu.set_priority(child, sched=sched)
    assert cpu.get_priority(child).sched == sched
    assert os.sched_getparam(child).sched_priority == sched[1]
    cpu.set_priority(child, sched="other")
    assert cpu.get_priority(child).sched == "other"


def test_a_deadline(child, may_deadline):
    cpu.set_priority(child, sched=QUARTER)
    found = cpu.get_priority(child)
    assert (found.sched, found.reset_on_fork) == (QUARTER, True)
    cpu.set_priority(child, sched="other", reset_on_fork=False)
    assert cpu.get_priority(child).reset_on_fork is False


@needs_root
def test_a_deadline_that_cannot_be_kept(may_deadline):
    """Admission: on every CPU together no more than the machine has. One child after the other asks for 80 %."""
    many = os.sysconf("SC_NPROCESSORS_ONLN") * 5 // 4 + 1  # 80 % of these is more than any number of CPUs
    sleepers = [subprocess.Popen(["sleep", "1000"]) for _ in range(many)]
    try:
        wanted = cpu.Deadline(0.008, 0.01)
        # Others may have deadlines as well, and give them up meanwhile: which of these is refused is theirs to say.
        refused = [one for each in sleepers for one in cpu.set_priority(each.pid, sched=wanted, best_effort=True)]
        assert {one.errno for one in refused} == {errno.EBUSY}
        assert "asks for 80.0% of a CPU" in refused[-1].advice
        assert "sched_rt_runtime_us=" in refused[-1].advice
        with pytest.raises(cl.CpuRefused) as info:
            [cpu.set_priority(each.pid, sched=wanted) for each in sleepers]
        assert info.value.errno == errno.EBUSY
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_a_deadline_and_a_mask(child, may_deadline):
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        pytest.skip("there is one CPU: a mask of it is no restriction")
    cpu.set_affinity(min(ours), child)
    with pytest.raises(PermissionError, match=r"kept to CPUs .* runs on all CPUs of its scheduling domain"):
        cpu.set_priority(child, sched=QUARTER)
    cpu.set_affinity(ours, child)
    cpu.set_priority(child, sched=QUARTER)
    with pytest.raises(cl.CpuRefused, match="give it another policy first") as info:
        cpu.set_affinity(min(ours), child)
    assert info.value.errno == errno.EBUSY


def test_a_deadline_of_a_strange_length(child, may_deadline):
    with pytest.raises(cl.CpuRefused, match="sched_deadline_period_min_us=") as info:
        cpu.set_priority(child, sched=cpu.Deadline(2e-6, 3e-6))
    assert info.value.errno == errno.EINVAL


def test_clamps(child):
    if has_clamps:
        cpu.set_priority(child, uclamp=(100, None))
        assert cpu.get_priority(child).uclamp == (100, 1024)
        cpu.set_priority(child, uclamp=(None, 200))
        assert cpu.get_priority(child).uclamp == (100, 200)
        return
    with pytest.raises(cl.CpuRefused, match="CONFIG_UCLAMP_TASK") as info:
        cpu.set_priority(child, uclamp=(1, 2))
    assert info.value.errno == errno.EOPNOTSUPP


@needs_strace
@pytest.mark.skipif(has_clamps, reason="the kernel answers 0 and 0 only where it has no clamps, or was asked for them")
def test_clamps_of_nothing_are_clamps(tmp_path):
    """A kernel that has them finds fault with a value that is too large: here strace does it."""
    code = "import json; from corelane import cpu; print(json.dumps(cpu.get_priority().uclamp))"
    assert trace(code, tmp_path, inject=["sched_setattr:error=EINVAL"])[0] == [0, 0]
    assert trace(code, tmp_path)[0] is None


@needs_root
def test_a_cgroup_without_a_real_time_share(may_fifo):
    """Even root is refused, which puzzles people."""
    top = next((p for p in ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct") if os.path.isdir(p)), None)
    path = f"{top}/corelane-rt-{os.getpid()}"
    try:
        os.mkdir(path)
    except OSError as error:
        pytest.skip(f"there is no v1 cgroup to be made here: {error}")
    try:
        if not os.path.exists(f"{path}/cpu.rt_runtime_us"):
            pytest.skip("this kernel has no real-time shares of groups")
        with cl.Command("sleep", "1000", cgroup=path).spawn() as process:
            with pytest.raises(PermissionError, match=r"no real-time share: .*cpu\.rt_runtime_us is 0"):
                cpu.set_priority(process.pid, sched=("fifo", 1))
            process.kill()
    finally:
        os.rmdir(path)


# ---- I/O priority, memory, autogroup ----


@pytest.mark.parametrize("written", ["idle", ("best-effort", 7), ("best-effort", 0), "none"])
def test_io_priority(written, child):
    cpu.set_io_priority(written, child)
    assert cpu.get_io_priority(child) == cpu.get_priority(child).io_priority == written


@needs_root
def test_the_real_time_class_of_io(child):
    cpu.set_io_priority(("realtime", 3), child)
    assert cpu.get_io_priority(tid=child) == ("realtime", 3)


@pytest.mark.skipif(not shutil.which("chrt") or not shutil.which("ionice"), reason="chrt and ionice are not installed")
def test_chrt_and_ionice_agree(child):
    cpu.set_priority(child, sched="batch", reset_on_fork=True, io_priority=("best-effort", 3))
    said = subprocess.run(["chrt", "-p", str(child)], capture_output=True, text=True, check=True).stdout
    assert "SCHED_BATCH|SCHED_RESET_ON_FORK" in said
    assert (
        subprocess.run(["ionice", "-p", str(child)], capture_output=True, text=True).stdout == "best-effort: prio 3\n"
    )


def _in_a_thread(work):
    """A memory policy is a thread's, so that of the tests stays as it is."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(work()))
    thread.start()
    thread.join()
    return seen[0]


@pytest.mark.skipif(not has_numa, reason="this kernel is built without NUMA")
@pytest.mark.parametrize("written", ["default", "local", ("bind", (0,)), ("interleave", (0,)), ("preferred", (0,))])
def test_memory_policy(written):
    def work():
        cpu.set_memory_policy(written)
        return cpu.get_memory_policy()

    assert _in_a_thread(work) == written


@pytest.mark.skipif(not has_numa, reason="this kernel is built without NUMA")
def test_a_node_that_does_not_exist():
    def work():
        cpu.set_memory_policy(("bind", 0))
        said = []
        for nodes in (f"{FAR_NODE}", f"0,{FAR_NODE}"):
            with pytest.raises(cl.CpuRefused) as info:
                cpu.set_memory_policy(("interleave", nodes))
            said.append((info.value.errno, info.value.advice, cpu.get_memory_policy()))
        said.append((cpu.set_memory_policy(("interleave", [0, FAR_NODE]), best_effort=True), cpu.get_memory_policy()))
        return said

    none, some, (refused, left) = _in_a_thread(work)
    assert (none[0], some[0]) == (errno.EINVAL, errno.ENODEV)
    assert f"node {FAR_NODE} does not exist here" in none[1]
    assert none[2] == some[2] == ("bind", (0,))  # as before
    assert left == ("interleave", (0,))
    assert len(refused) == 1


@pytest.mark.skipif(not has_numa, reason="this kernel is built without NUMA")
def test_flags_of_a_memory_policy_are_as_before_too():
    static = 1 << 15 | lib.CL_MEMORY_BIND  # MPOL_F_STATIC_NODES

    def work():
        assert lib.cl_cpu_set_memory_policy(static, bytes([1, *bytes(7)]), 8) == 0
        with pytest.raises(cl.CpuRefused):
            cpu.set_memory_policy(("interleave", [0, FAR_NODE]))
        return lib.cl_cpu_get_memory_policy(ffi.new("uint8_t[]", 512), 512), cpu.get_memory_policy()

    assert _in_a_thread(work) == (static, ("bind", (0,)))


@needs_root
@pytest.mark.skipif(not has_autogroup, reason="this kernel is built without autogroups")
def test_autogroup():
    with cl.Command("sleep", "1000", new_session=True).spawn() as process:
        assert cpu.get_priority(process.pid).autogroup == 0
        cpu.set_priority(process.pid, autogroup=7)
        assert cpu.get_priority(process.pid).autogroup == 7
        process.kill()


def test_a_process_that_is_gone():
    with subprocess.Popen(["true"]) as process:
        pass
    pid = process.pid
    for call in (
        lambda: cpu.get_priority(pid),
        lambda: cpu.get_nice(pid),
        lambda: cpu.get_io_priority(pid),
        lambda: cpu.set_nice(5, pid),
        lambda: cpu.set_nice(5, tid=pid),
        lambda: cpu.set_priority(pid, sched="batch"),
        lambda: cpu.set_priority(pid, autogroup=3),
    ):
        with pytest.raises(
            ProcessLookupError, match=f" {pid}: No such process: there is none with that number"
        ) as info:
            call()
        assert isinstance(info.value, cl.CpuRefused)


# ---- a plain user ----

_AS_NOBODY = """
import json, os, resource, sys
import corelane as cl
from corelane import cpu
from corelane.cpu import refusals
cpu.set_nice(cpu.get_nice(), best_effort=True), cpu.get_priority()  # imports, while we may read all
resource.setrlimit(resource.RLIMIT_NICE, (0, 0)), resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
cl.run(["true"], contain="none"), list(cl.run_many([["true"]]))
if os.geteuid() == 0:
    os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
os.chdir("/")
"""


def test_what_a_plain_user_is_refused():
    said = script(
        _AS_NOBODY
        + """
said = {}
wanted = {"nice": -5, "sched": ("fifo", 7), "deadline": cpu.Deadline(0.001, 0.01), "io_priority": ("realtime", 0)}
for name, value in wanted.items():
    given = {"sched" if name == "deadline" else name: value}
    try:
        cpu.set_priority(**given)
        said[name] = None
    except PermissionError as error:
        said[name] = [error.errno, str(error)]
refused = cpu.set_priority(nice=-5, sched=("rr", 3), io_priority=("realtime", 1), best_effort=True)
said["all"] = [str(each) for each in refused]
said["left"] = [cpu.get_nice() >= 0, cpu.get_priority().sched]
print(json.dumps(said))
"""
    )
    assert said["nice"][0] == errno.EACCES
    assert "RLIMIT_NICE is 0" in said["nice"][1]
    assert "`nice -5` in limits.conf, or LimitNICE=-5" in said["nice"][1]
    assert "RLIMIT_RTPRIO is 0, and priority 7 is asked" in said["sched"][1]
    assert "LimitRTPRIO=7" in said["sched"][1]
    assert "takes CAP_SYS_NICE, whatever RLIMIT_RTPRIO is" in said["deadline"][1]
    assert "the realtime class is not free" in said["io_priority"][1]
    assert len(said["all"]) == 3
    assert said["left"] == [True, "other"]


@needs_root
def test_a_group_of_somebody_elses():
    """The group is root's, and a limit has nothing to do with it."""
    with cl.Command("sleep", "1000", contain="group").spawn() as leader:
        said = script(
            _AS_NOBODY
            + f"""
said = []
for call in (lambda: cpu.set_nice(7, group={leader.pid}), lambda: cpu.set_io_priority("idle", group={leader.pid})):
    try:
        call()
    except PermissionError as error:
        said.append(str(error))
print(json.dumps(said))
"""
        )
        leader.kill()
    assert len(said) == 2
    for each in said:
        assert "not all of them are of user 65534" in each
        assert "CAP_SYS_NICE" in each
        assert "RLIMIT_NICE" not in each


def test_a_nice_value_for_systemd_has_its_sign(monkeypatch):
    """systemd.exec(5): a plain number is a limit of 0 to 40, and not a nice value."""
    monkeypatch.setattr(refusals, "_limit", lambda pid, name: 0)
    for value, written in ((5, "LimitNICE=+5"), (0, "LimitNICE=+0"), (-5, "LimitNICE=-5")):
        assert f"`nice {value}` in limits.conf, or {written}," in refusals.advice("nice", errno.EACCES, value)


# ---- as options of a spawn ----


def inspected(look, **options):
    with cl.Command("sleep", "1000", **{"stdin": cl.DEVNULL, **options}).spawn() as process:
        try:
            return look(process)
        finally:
            process.kill()


@every_road
def test_reset_on_fork(road):
    found = inspected(lambda p: cpu.get_priority(p.pid), sched="batch", reset_on_fork=True, **road)
    assert (found.sched, found.reset_on_fork) == ("batch", True)


@every_road
def test_a_deadline_child_can_fork(road, may_deadline):
    """Without reset-on-fork it could not: EAGAIN."""
    shell = cl.Command.shell("sh -c 'exit 3'; echo $?", sched=QUARTER, timeout=PATIENCE, **road)
    assert shell.read() == "3\n"
    assert inspected(lambda p: cpu.get_priority(p.pid).sched, sched=QUARTER, **road) == QUARTER
    stuck = shell.with_options(reset_on_fork=False, stderr=cl.DEVNULL)
    assert stuck.with_options(check=False, capture=None, stdout=cl.PIPE).run().stdout != b"3\n"


@every_road
def test_a_deadline_child_with_a_mask(road, may_deadline):
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        pytest.skip("there is one CPU: a mask of it is no restriction")
    with pytest.raises(cl.SpawnFailed, match=f"kept to CPUs {min(ours)} of .* runs on all CPUs of its") as info:
        cl.run(["true"], sched=QUARTER, cpus=min(ours), **road)
    assert (info.value.stage, info.value.errno) == ("scheduler", errno.EPERM)


@every_road
def test_a_deadline_child_of_a_pinned_parent(road, may_deadline):
    """It is kept to fewer CPUs than a deadline needs, unless cpus= gives them back."""
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        pytest.skip("there is one CPU: a mask of it is no restriction")
    with cpu.pinned(min(ours)):
        with pytest.raises(cl.SpawnFailed, match=f"kept to CPUs {min(ours)} of") as info:
            cl.run(["true"], sched=QUARTER, **road)
        assert info.value.errno == errno.EPERM
        assert cl.run(["true"], sched=QUARTER, cpus=ours, **road).ok


@pytest.mark.skipif(not has_numa, reason="this kernel is built without NUMA")
@every_road
def test_a_memory_policy_survives_exec(road):
    show = "import json; from corelane import cpu; print(json.dumps(cpu.get_memory_policy()))"
    command = cl.Command(sys.executable, "-c", show, timeout=PATIENCE, **road)
    assert command.with_options(memory_policy=("bind", "0")).read() == '["bind", [0]]\n'
    assert command.with_options(memory_policy="local").read() == '"local"\n'
    for nodes in (f"{FAR_NODE}", f"0,{FAR_NODE}"):
        with pytest.raises(cl.SpawnFailed, match=f"node {FAR_NODE} does not exist here") as info:
            command.with_options(memory_policy=("interleave", nodes)).run()
        assert info.value.stage == "memory_policy"


@needs_root
@pytest.mark.skipif(not has_autogroup, reason="this kernel is built without autogroups")
@every_road
def test_the_autogroup_of_a_session(road):
    ours = cpu.get_priority().autogroup
    assert inspected(lambda p: cpu.get_priority(p.pid).autogroup, new_session=True, autogroup=6, **road) == 6
    assert cpu.get_priority().autogroup == ours


@pytest.mark.skipif(os.geteuid() == 0, reason="root may change autogroups as often as it likes")
@pytest.mark.skipif(not has_autogroup, reason="this kernel is built without autogroups")
def test_autogroups_too_often():
    """The kernel's EAGAIN is no want of room for processes: nobody waits for a child to end."""
    command = cl.Command("true", new_session=True, autogroup=5, best_effort=True)
    refused = next(found for _ in range(1000) if (found := command.run().not_applied))
    assert [(one.errno, "one change in 0.1 s" in one.advice) for one in refused] == [(errno.EBUSY, True)]


@every_road
def test_cpus_that_are_left_out_are_an_error(road):
    first = min(os.sched_getaffinity(0))
    for cpus, number in ((60000, errno.EINVAL), ([first, 60000], errno.ENODEV)):
        with pytest.raises(cl.SpawnFailed, match="CPU 60000 does not exist here") as info:
            cl.run(["true"], cpus=cpus, **road)
        assert (info.value.stage, info.value.errno) == ("affinity", number)


_WANTED = {"cpus": "0-60000", "memory_policy": ("bind", (0, FAR_NODE)), "nice": 19, "sched": "batch"}


def check_left_out(found):
    assert [(one.what.split("=")[0], one.errno) for one in found] == [
        ("cpus", errno.ENODEV),
        ("memory_policy", errno.ENODEV if has_numa else errno.ENOSYS),
    ]
    assert all(isinstance(one, cl.CpuRefused) and one.advice for one in found)


@every_road
def test_best_effort_goes_on_without(road):
    result = cl.run(["sh", "-c", "nice"], capture=True, best_effort=True, **_WANTED, **road)
    assert result.text == "19\n"
    check_left_out(result.not_applied)
    again = pickle.loads(pickle.dumps(result))
    assert [str(one) for one in again.not_applied] == [str(one) for one in result.not_applied]
    inspected(lambda process: check_left_out(process.not_applied), best_effort=True, **_WANTED, **road)
    assert cl.run(["true"], best_effort=True, nice=19, **road).not_applied == ()


@every_road
def test_best_effort_and_a_program_that_is_not_there(road):
    """What was left out is told first, and does not hide what failed."""
    with pytest.raises(FileNotFoundError) as info:
        cl.run(["/no/such/program"], best_effort=True, **_WANTED, **road)
    assert info.value.stage == "exec"


def test_best_effort_of_many():
    results = list(cl.run_many([["true"]] * 20, concurrency=5, best_effort=True, **_WANTED))
    assert {result.strategy for result in results} <= {"clone3-nowait", "vfork", "fork", "posix_spawn"}
    for result in results:
        check_left_out(result.not_applied)
    [failed] = cl.run_many([["/no/such/program"]], best_effort=True, **_WANTED)
    assert isinstance(failed.error, FileNotFoundError)
    assert failed.not_applied == ()


def test_best_effort_of_a_pipeline():
    first = cl.Command("echo", "x", best_effort=True, **_WANTED)
    result = (first | cl.Command("cat")).with_options(capture=True).run()
    assert result.text == "x\n"
    check_left_out(result.not_applied)
    with (first | cl.Command("cat", stdout=cl.DEVNULL)).spawn() as process:
        check_left_out(process.not_applied)


def test_best_effort_under_asyncio():
    import asyncio

    async def main():
        async with cl.Command("sleep", "1000", best_effort=True, **_WANTED).spawn_async() as process:
            found = process.not_applied
            process.kill()
        return found, (await cl.run_async(["true"], best_effort=True, **_WANTED)).not_applied

    for found in asyncio.run(main()):
        check_left_out(found)


@pytest.mark.parametrize("strategy", ["clone3", "vfork", "fork", "posix_spawn", "many"])
def test_each_step_that_a_plain_user_is_refused(strategy):
    """nice, policy, I/O priority and oom score, as nobody; by the platform's strategies."""
    if lib.cl_platform() != lib.CL_PLATFORM_LINUX and strategy not in ("posix_spawn", "many"):
        pytest.skip("this build has only posix_spawn")
    said = script(
        _AS_NOBODY
        + """
given = {"nice": -5, "sched": ("fifo", 7), "io_priority": ("realtime", 0), "oom_score_adj": -900, "timeout": 20}
strategy = sys.argv[1]
if strategy != "many":
    given["strategy"] = strategy
said = {}
for name in ("nice", "sched", "io_priority", "oom_score_adj"):
    one = {key: value for key, value in given.items() if key in (name, "strategy", "timeout")}
    if strategy == "many":
        [result] = cl.run_many([["true"]], **one)
        error = result.error
    else:
        try:
            error = cl.run(["true"], **one)
        except cl.SpawnFailed as refused:
            error = refused
    said[name] = [getattr(error, "stage", None), str(error)]
if strategy == "many":
    [result] = cl.run_many([["true"]], best_effort=True, **given)
else:
    result = cl.run(["true"], best_effort=True, **given)
said["all"] = [str(each) for each in result.not_applied]
print(json.dumps(said))
""",
        strategy,
    )
    assert {name: each[0] for name, each in said.items() if name != "all"} == {
        "nice": "nice",
        "sched": "scheduler",
        "io_priority": "io_priority",
        "oom_score_adj": "oom",
    }
    assert "LimitNICE=-5" in said["nice"][1]
    assert "LimitRTPRIO=7" in said["sched"][1]
    assert "CAP_SYS_RESOURCE" in said["oom_score_adj"][1]
    assert [each.split("=")[0] for each in said["all"]] == ["nice", "sched", "io_priority", "oom_score_adj"]


def test_advice_says_something_of_every_step(tmp_path):
    """Also where nothing can be read."""
    values = {
        "nice": -5,
        "scheduler": (1, 5),
        "uclamp": (1, 2),
        "affinity": (0,),
        "io_priority": 8192,
        "memory_policy": (2, (0,)),
        "autogroup": -3,
        "oom": -5,
        "others": 5,
    }
    assert set(values) == set(refusals._STEPS)
    for step, value in values.items():
        for number in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODEV, errno.EBUSY, errno.ESRCH, errno.ENOSYS):
            assert isinstance(refusals.advice(step, number, value, root=str(tmp_path)), str)
    for number in (errno.EPERM, errno.EINVAL, errno.EBUSY):
        assert refusals.advice("scheduler", number, QUARTER, root=str(tmp_path))
    assert resource.getrlimit(resource.RLIMIT_NICE)


def test_throttled_to_nothing_is_said(tmp_path):
    kernel = tmp_path / "proc/sys/kernel"
    kernel.mkdir(parents=True)
    (kernel / "sched_rt_runtime_us").write_text("0\n")
    assert "sched_rt_runtime_us is 0" in refusals._real_time_share("self", str(tmp_path))
