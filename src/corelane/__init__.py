"""corelane: processes for Python, at the speed of the machine.

    import corelane as cl

    cl.run(["tool", "-x"], timeout=5)
    cl.Command("grep", "-c", "ERROR", cwd="/var/log").read()

Importing it is cheap: what only some calls need is loaded by those.
"""

from corelane.errors import (
    CallFailed,
    CgroupUnavailable,
    CorelaneError,
    NonZeroExit,
    NotOwner,
    NotSupported,
    OutputLimitExceeded,
    ProcessError,
    ProcessTimeout,
    ResourceExhausted,
    Signaled,
    SpawnFailed,
    StatusUnknown,
    TeeFailed,
)
from corelane.process import (
    DEVNULL,
    PIPE,
    STDOUT,
    Command,
    File,
    Process,
    Result,
    Retry,
    Usage,
    quote,
    read,
    run,
    run_many,
)

__version__ = "0.1.0"

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CallFailed",
    "CgroupUnavailable",
    "Command",
    "CorelaneError",
    "File",
    "NonZeroExit",
    "NotOwner",
    "NotSupported",
    "OutputLimitExceeded",
    "Process",
    "ProcessError",
    "ProcessTimeout",
    "ResourceExhausted",
    "Result",
    "Retry",
    "Signaled",
    "SpawnFailed",
    "StatusUnknown",
    "TeeFailed",
    "Usage",
    "__version__",
    "quote",
    "read",
    "run",
    "run_many",
]
