"""What the tests of the Python package share: models, a daemon beside them, the helpers of the end-to-end tests."""
import os
import sys

import pytest

import deq

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
STORIES = os.path.join(ROOT, "models", "stories")
# its texts have no end, it has no proposal of its own, and it is served with a window of several rows
TRANSFORMER = os.path.join(ROOT, "models", "stories-transformer")
TINY = os.path.join(ROOT, "tests", "golden", "tiny")


@pytest.fixture(scope="session", params=[STORIES, TINY], ids=["stories", "tiny"])
def directory(request):
    return request.param


@pytest.fixture(scope="session")
def model(directory):
    with deq.load(directory) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def daemon(directory):
    from lib import Daemon

    running = Daemon("limits.max_logprobs=50", model=directory)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def stories():
    with deq.load(STORIES) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def transformer():
    with deq.load(TRANSFORMER) as loaded:
        yield loaded
