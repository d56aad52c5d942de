# SPDX-License-Identifier: Apache-2.0
"""Pending goldens: ``NAME.golden.json.new``, with ``NAME.h5.new`` where the contents changed.

The golden itself is never touched. A pending document names the one that it is to replace by SHA-256, so that an old
review can't undo a newer one.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

from fusion_replay.errors import TargetExistsError, UsageError
from fusion_replay.golden.document import SUFFIX, Contents, Golden, sha256_of
from fusion_replay.golden.store import CONTENTS, NEW, name_of
from fusion_replay.model.text import shell


def propose(path: Path, golden: Golden, contents: Path | None, new_dir: Path | None = None) -> Path | None:
    """Write ``golden`` for a review.

    Args:
        path: the golden that it is to replace; it need not exist.
        golden: what it should be.
        contents: its recording, where that is not the accepted one; copied.
        new_dir: where to write; beside ``path`` where it is None.

    Returns:
        The pending document; None where it would say what the golden says.

    Raises:
        TargetExistsError: another one waits there.
        UsageError: the folder can't be written.
    """
    name = name_of(path)
    folder = path.parent if new_dir is None else new_dir
    target = folder / f"{name}{SUFFIX}{NEW}"
    said = replace(golden, replaces=sha256_of(path) if path.exists() else "")
    if contents is not None:
        said = replace(said, contents=Contents.of(contents, f"{name}{CONTENTS}"))
    if path.exists() and replace(said, replaces="", moved={}).to_json() == path.read_text("utf-8"):
        return None
    if target.exists():
        if contents is None and target.read_bytes() == said.to_json().encode("utf-8"):
            return target  # it waits already
        where = ["--dir", str(folder)]
        accept = [name, *where, *(() if new_dir is None else ("--into", str(path.parent)))]
        raise TargetExistsError(
            f"{target}: left over from before, it was not overwritten; `fusion-replay golden accept "
            f"{shell(accept)}` or `reject {shell([name, *where])}`, then check again"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if contents is not None:
            write_new(folder / f"{name}{CONTENTS}{NEW}", contents)
        write_new(target, said.to_json())  # last: a document never names contents that aren't there
    except FileExistsError as error:
        raise TargetExistsError(f"{error.filename}: left over from before, it was not overwritten") from None
    except OSError as error:
        raise UsageError(f"{folder}: can't be written ({error.strerror}); give another folder with --new-dir") from None
    return target


def write_new(target: Path, what: str | Path) -> None:
    """Make ``target`` from a text or a copy of a file, complete or not at all; nothing is overwritten.

    Raises:
        FileExistsError: it exists.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with part.open("xb") as file:
            if isinstance(what, str):
                file.write(what.encode("utf-8"))
            else:
                with what.open("rb") as source:
                    shutil.copyfileobj(source, file)
        try:
            os.link(part, target)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        except OSError:  # no hard links on this file system: take the name with an empty file first
            target.touch(exist_ok=False)
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


__all__ = ["propose", "write_new"]
