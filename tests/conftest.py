"""What every test shares, and nothing about any subject: that belongs beside its tests."""

from hypothesis import settings

# A deadline times a test on whatever machine runs it; a benchmark is never a timed unit test.
settings.register_profile("corelane", deadline=None)
settings.load_profile("corelane")
