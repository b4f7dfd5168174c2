"""What every test shares, and nothing about any subject: that belongs beside its tests."""

import pytest
from hypothesis import settings

# A deadline times a test on whatever machine runs it; a benchmark is never a timed unit test.
settings.register_profile("corelane", deadline=None)
settings.load_profile("corelane")


@pytest.fixture
def stops_the_tracker():
    """For tests of multiprocessing: its resource tracker is a child of ours that stays, and others look at those."""
    from multiprocessing import resource_tracker

    yield
    if resource_tracker._resource_tracker._pid is not None:
        resource_tracker._resource_tracker._stop()
