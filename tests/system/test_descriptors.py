# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from fusion_replay.system.descriptors import OwnDescriptor


def own(path: Path) -> OwnDescriptor:
    return OwnDescriptor(os.open(path, os.O_RDWR | os.O_CREAT), path)


def test_the_number_is_high_and_not_inherited(tmp_path: Path) -> None:
    made = own(tmp_path / "a")
    assert made.fd >= min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 4096) - 64
    assert not os.get_inheritable(made.fd)
    made.close()


@pytest.mark.parametrize("reused", [False, True])
def test_once_closed_by_somebody_it_is_never_used_again(tmp_path: Path, reused: bool) -> None:
    made = own(tmp_path / "a")
    number = made.fd
    os.close(number)
    if reused:
        other = os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
        os.dup2(other, number)
        os.close(other)
    for _ in range(2):
        with pytest.raises(OSError, match="the program closed the recorder's descriptor of") as found:
            _ = made.fd
        assert found.value.errno == errno.EBADF
    made.close()
    if reused:
        os.close(number)  # still the other's


def test_closing_twice_closes_once(tmp_path: Path) -> None:
    made = own(tmp_path / "a")
    number = made.fd
    made.close()
    other = os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    os.dup2(other, number)
    made.close()
    os.close(number)
    os.close(other)


def test_where_no_high_number_is_free_the_low_one_does(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        taken = [own(tmp_path / str(n)) for n in range(70)]
        assert len({made.fd for made in taken}) == 70
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for made in taken:
            made.close()
