"""A Slurm of one node, of the real daemons (munged, slurmctld, slurmd), for as long as a test needs it.

Everything is in a private directory: key, socket, states and logs; the ports are free ones on the loopback. It starts
three processes and ends exactly these, and what they started: that has the private directory in its environment. It
needs no root; slurmd then runs jobs for its own user only."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
PROGRAMS = (*DAEMONS, "srun", "sinfo")
START_WITHIN = 15.0  # seconds
STEP_WITHIN = 20.0
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

_CONF = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={dir}/munge.socket
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd.log
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=5 State=UP
"""
_CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"


class NoSlurm(Exception):
    """Why there is none here."""


def missing():
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


class Slurm:
    """A context manager: the daemons run inside of the block."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        self.env.update(PATH=_PATH, SLURM_CONF=str(self.directory / "slurm.conf"))
        self._daemons = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in psutil.process_iter():
            # A step's own daemon has left the tree of its slurmd.
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == self.env["SLURM_CONF"]:
                    process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def srun(self, *argv, check=True):
        """The output of `srun argv`."""
        done = subprocess.run(
            ["srun", "--quiet", "--immediate=10", *argv], env=self.env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=STEP_WITHIN, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"srun {' '.join(argv)}\n{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def logs(self):
        """The last lines of what the daemons say."""
        texts = []
        for path in sorted(self.directory.glob("*.log")):
            texts.append(f"--- {path.name}\n" + "".join(path.read_text(errors="replace").splitlines(True)[-12:]))
        return "\n" + "".join(texts)

    def _start(self):
        if missing():
            raise NoSlurm(f"not installed: {', '.join(missing())} (Debian: slurmctld slurmd slurm-client munge)")
        if os.sched_getaffinity(0) != set(range(os.cpu_count())):
            raise NoSlurm("slurmd would bind to all CPUs of the machine, and this process may not use all")
        here = self.directory
        for name in ("state", "spool"):
            (here / name).mkdir()
        (here / "munge.key").write_bytes(os.urandom(128))
        (here / "munge.key").chmod(0o400)
        ports = _free_ports(2)
        conf = _CONF.format(
            dir=here, host=socket.gethostname().partition(".")[0], user=getpass.getuser(), cpus=os.cpu_count(),
            ctld_port=ports[0], d_port=ports[1],
        )  # fmt: skip
        (here / "slurm.conf").write_text(conf)
        (here / "cgroup.conf").write_text(_CGROUP_CONF)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        # --force: it would rather have its socket where everybody finds it.
        options = [f"--{option}={here}/munge.{suffix}" for option, suffix in files.items()]
        self._daemon("munged", "--foreground", "--force", *options)
        self._wait_for(lambda: (here / "munge.socket").exists(), "munged's socket")
        self._daemon("slurmctld", "-D", "-f", str(here / "slurm.conf"))
        self._daemon("slurmd", "-D", "-f", str(here / "slurm.conf"))
        self._wait_for(self._is_idle, "the node to be idle")

    def _daemon(self, name, *options):
        with open(self.directory / f"{name}.out.log", "wb") as log:
            process = subprocess.Popen(
                [name, *options],
                env=self.env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._daemons.append(process)

    def _is_idle(self):
        state = ["sinfo", "--noheader", "--format=%T"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(state, env=self.env, capture_output=True, text=True, timeout=5, check=False)
            return done.stdout.strip() == "idle"
        return False

    def _wait_for(self, condition, what):
        deadline = time.monotonic() + START_WITHIN
        while not condition():
            ended = [os.path.basename(daemon.args[0]) for daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = f"{', '.join(ended)} ended" if ended else f"waited {START_WITHIN:g} s for {what}"
                raise NoSlurm(f"Slurm does not start: {why}{self.logs()}")
            time.sleep(0.05)


def _free_ports(many):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(many)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
