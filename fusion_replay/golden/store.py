# SPDX-License-Identifier: Apache-2.0
"""Where goldens lie: what a folder holds, and a golden's contents, beside it or fetched and checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import urllib.parse
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from fusion_replay.errors import DamagedSnapshotError, MissingError, UsageError
from fusion_replay.golden import remote
from fusion_replay.golden.document import SUFFIX, Contents, Golden, is_name, sha256_of
from fusion_replay.golden.project import Project
from fusion_replay.system.files import refuse_lfs_pointer, regular

NEW = ".new"
"""Suffix of a pending golden and its contents."""
CONTENTS = ".h5"


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder of goldens and the folders in it hold, sorted.

    Attributes:
        goldens: documents.
        pending: documents that wait for a review.
        contents: recordings.
    """

    path: Path
    goldens: tuple[Path, ...]
    pending: tuple[Path, ...]
    contents: tuple[Path, ...]

    @classmethod
    def scan(cls, path: Path) -> Folder:
        """Read the folder; hidden folders are passed over.

        Raises:
            UsageError: there is none.
        """
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            make = "`fusion-replay golden add` makes one"
            raise UsageError(f"{path}: expected a folder of goldens, found {found}; {make}")
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        return cls(
            path,
            tuple(p for p in files if p.name.endswith(SUFFIX)),
            tuple(p for p in files if p.name.endswith(SUFFIX + NEW)),
            tuple(p for p in files if p.name.endswith(CONTENTS)),
        )

    def find(self, name: str) -> Path | None:
        """The document of that name, in whatever folder."""
        return next((p for p in self.goldens if name_of(p) == name), None)

    def twins(self) -> dict[str, tuple[Path, ...]]:
        """Names that more than one document has; a file system may not tell capitals from small letters."""
        by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.goldens:
            by_name[name_of(path).casefold()].append(path)
        return {name_of(paths[0]): tuple(paths) for paths in by_name.values() if len(paths) > 1}


def name_of(path: Path) -> str:
    """``x/NAME.golden.json`` and ``x/NAME.golden.json.new`` -> ``NAME``."""
    return path.name.removesuffix(NEW).removesuffix(SUFFIX)


def document(folder: Path, name: str) -> Path:
    return folder / f"{name}{SUFFIX}"


def checked_name(name: str) -> str:
    """``name``, if a file can be called so.

    Raises:
        UsageError: empty, hidden, too long, or with characters that a file name should not have.
    """
    if not is_name(name):
        raise UsageError(f"golden name {name!r}: expected letters, digits and ._-+=, at most 200; give another --name")
    return name


def contents_of(golden: Golden, path: Path, project: Project, *, private: bool = False) -> Path | None:
    """The recording that belongs to the golden at ``path``, checked by size and SHA-256; None for a thin golden.

    ``private``: it may also be fetched from addresses that are not public, see :func:`fusion_replay.golden.remote`.

    Raises:
        MissingError: it lies neither beside the golden nor where ``golden-contents`` says.
        ForeignFileError: a git-LFS pointer.
        DamagedSnapshotError: not the file that was accepted.
        UsageError: a ``golden-contents`` that is no folder and no URL of a known kind.
    """
    contents = golden.contents
    if contents is None:
        return None
    beside = path.with_name(contents.file)
    if beside.exists():
        _check(beside, contents)
        return beside
    if project.contents is None:
        raise MissingError(
            f"{beside}: its contents are missing; restore the file, or say where they lie with "
            "golden-contents in pyproject.toml, [tool.fusion-replay]"
        )
    if (folder := _folder(project)) is not None:
        elsewhere = folder / contents.file
        if not elsewhere.exists():
            raise MissingError(f"{elsewhere}: no such file (golden-contents = {project.contents!r})")
        _check(elsewhere, contents)
        return elsewhere
    return _fetched(contents, project, private)


def cache_folder() -> Path:
    """Where fetched contents are kept, by SHA-256."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "fusion-replay" / "goldens"


def _folder(project: Project) -> Path | None:
    """Where contents lie that need not be fetched; None: at a URL."""
    assert project.contents is not None
    if not remote.is_url(project.contents):
        return project.root / project.contents
    parts = urllib.parse.urlsplit(project.contents)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"golden-contents {project.contents!r}: a file: URL of another machine; expected file:///...")
    return Path(urllib.request.url2pathname(parts.path))


def _check(path: Path, expected: Contents) -> None:
    try:
        with open(path, "rb", opener=regular) as file:
            refuse_lfs_pointer(file.read(200), str(path))
    except OSError as error:
        raise DamagedSnapshotError(f"{path}: can't be read: {error.strerror or error}") from None
    size = path.stat().st_size
    if size != expected.size:
        raise DamagedSnapshotError(
            f"{path}: {size:,} bytes, the golden was accepted with {expected.size:,}; restore it, or accept the new one"
        )
    if sha256_of(path) != expected.sha256:
        raise DamagedSnapshotError(
            f"{path}: its SHA-256 is not the one that was accepted ({expected.sha256[:16]}...); restore it, or accept "
            "the new one"
        )


def _fetched(contents: Contents, project: Project, private: bool) -> Path:
    assert project.contents is not None
    url = f"{project.contents.rstrip('/')}/{urllib.parse.quote(contents.file)}"
    if contents.size > project.max_bytes:
        raise MissingError(
            f"{url}: {contents.size:,} bytes, golden-max-bytes allows {project.max_bytes:,}: it was not fetched"
        )
    kept = cache_folder() / f"{contents.sha256}{CONTENTS}"
    if kept.exists():
        try:
            _check(kept, contents)
        except DamagedSnapshotError:
            kept.unlink()
        else:
            return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as part:
        try:
            digest = _download(url, part, contents.size, private)
            if digest != contents.sha256:
                raise DamagedSnapshotError(
                    f"{url}: SHA-256 {digest[:16]}..., the golden was accepted with {contents.sha256[:16]}...: not used"
                )
            part.flush()
            os.replace(part.name, kept)
        except BaseException:
            os.unlink(part.name)
            raise
    return kept


def _download(url: str, target: tempfile._TemporaryFileWrapper[bytes], size: int, private: bool) -> str:
    """Write exactly ``size`` bytes of ``url``; their SHA-256."""
    digest, left = hashlib.sha256(), size
    with contextlib.closing(remote.fetch(url, private=private)) as blocks:
        for block in blocks:
            left -= len(block)
            if left < 0:
                raise DamagedSnapshotError(f"{url}: longer than the {size:,} bytes that were accepted: not used")
            digest.update(block)
            target.write(block)
    if left:
        raise DamagedSnapshotError(f"{url}: {size - left:,} bytes, the golden was accepted with {size:,}: not used")
    return digest.hexdigest()


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts[:-1])


__all__ = ["CONTENTS", "NEW", "SUFFIX", "Folder", "checked_name", "contents_of", "document", "name_of"]
