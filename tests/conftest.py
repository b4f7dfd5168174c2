"""What tests of several files share."""

import os
import signal
import uuid

import pytest
from hypothesis import settings

# A deadline times a test on whatever machine runs it; a benchmark is never a timed unit test.
settings.register_profile("corelane", deadline=None)
settings.load_profile("corelane")

# A shell without job control ignores the first two for what it starts with `&`, nohup the third, and our children would
# inherit that: a test of Ctrl-C would wait for ever.
for _each, _default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_each) is signal.SIG_IGN:
        signal.signal(_each, _default)


@pytest.fixture
def stops_the_tracker():
    """For tests of multiprocessing: its resource tracker is a child of ours that stays, and others look at those."""
    from multiprocessing import resource_tracker

    yield
    if resource_tracker._resource_tracker._pid is not None:
        resource_tracker._resource_tracker._stop()


@pytest.fixture
def name():
    """The name of a segment, of this test's own; nothing of it is left."""
    from corelane.shm.names import path_of

    chosen = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield chosen
    for number in ("", *(f".{i}" for i in range(1, 10))):  # a QueuePool has several
        if os.path.lexists(path_of(chosen + number)):
            os.unlink(path_of(chosen + number))
