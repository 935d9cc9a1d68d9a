"""What is loaded is no more looked at by the garbage collector, and what comes later is."""

import gc
import weakref

import pytest

from eventful.pipeline.heap import settle_heap


class Node:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_a_round_looks_at_what_came_later_alone() -> None:
    there = Node()
    settle_heap()
    assert gc.get_freeze_count() > 10_000 and len(gc.get_objects()) < 1000
    later = Node()
    seen = weakref.ref(later)
    assert any(one is later for one in gc.get_objects()) and not any(one is there for one in gc.get_objects())
    del later
    gc.collect()
    assert seen() is None
