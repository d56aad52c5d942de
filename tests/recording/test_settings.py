# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.errors import UsageError
from fusion_replay.recording.settings import Settings

seconds = st.floats(min_value=0, max_value=1e9, allow_nan=False)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(
    st.builds(
        Settings,
        out=st.none() | texts,
        if_exists=st.sampled_from([None, "error", "replace", "number"]),
        on_error=st.sampled_from(["warn", "raise"]),
        separate=st.booleans(),
        level=st.sampled_from(["full", "digest"]),
        verify_static=st.booleans(),
        with_reference=st.booleans(),
        slow_after=seconds,
        step_timeout=st.none() | seconds,
        ledger=st.none() | texts,
    )
)
def test_what_is_written_is_what_is_read(settings: Settings) -> None:
    environ = settings.to_environ()
    assert all(name.startswith("FUSION_REPLAY_") for name in environ)
    assert Settings.from_environ({**environ, "FUSION_REPLAY_SOMETHING_ELSE": "x", "PATH": "/bin"}) == settings


def test_defaults_need_no_variables() -> None:
    assert Settings().to_environ() == {}
    assert Settings.from_environ({"FUSION_REPLAY_STEP_TIMEOUT": ""}) == Settings()


@pytest.mark.parametrize("text", ["1", "true", "YES"])
def test_switches(text: str) -> None:
    assert Settings.from_environ({"FUSION_REPLAY_SEPARATE": text}).separate
    assert not Settings.from_environ({"FUSION_REPLAY_SEPARATE": "0"}).separate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEPARATE", "on or off"),
        ("STEP_TIMEOUT", "-1"),
        ("STEP_TIMEOUT", "inf"),
        ("SLOW_AFTER", "10s"),
        ("IF_EXISTS", "overwrite"),
        ("ON_ERROR", "RAISE"),
    ],
)
def test_malformed_values_name_variable_and_expectation(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"^FUSION_REPLAY_{name}={value!r}: expected .*; correct or unset it$"):
        Settings.from_environ({f"FUSION_REPLAY_{name}": value})
