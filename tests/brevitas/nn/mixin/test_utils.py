"""Keywords are split by prefix."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from brevitas.nn.mixin.utils import filter_kwargs

NAMES = st.dictionaries(st.text("abw_", min_size=1, max_size=8), st.integers(), max_size=6)


@given(NAMES, st.sampled_from(["", "a_", "w"]))
def test_prefix_is_taken_off(keywords, prefix):
    filtered = filter_kwargs(prefix, keywords)
    assert {prefix + key: value for key, value in filtered.items()} == {
        key: value for key, value in keywords.items() if key.startswith(prefix)
    }
