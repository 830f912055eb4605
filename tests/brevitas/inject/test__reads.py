"""Recording of reads on its own; with injectors it is tested in test__container.py."""

from __future__ import annotations

from brevitas.inject import record_reads
from brevitas.inject._reads import current_reads


def test_nothing_is_recorded_outside_a_block():
    assert current_reads.get() is None
    with record_reads() as names:
        assert current_reads.get() is names
    assert current_reads.get() is None


def test_given_set_is_filled():
    names = {"before"}
    with record_reads(names) as recorded:
        assert recorded is names
