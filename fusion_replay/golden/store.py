# SPDX-License-Identifier: Apache-2.0
"""Where goldens lie: what a folder holds, and a golden's contents, beside it or fetched and checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from fusion_replay.errors import DamagedSnapshotError, MissingError, UsageError
from fusion_replay.golden.document import SUFFIX, Contents, Golden, refuse_lfs_pointer, sha256_of
from fusion_replay.golden.project import Project

NEW = ".new"
"""Suffix of a pending golden and its contents."""
CONTENTS = ".h5"

_SCHEMES = ("file", "http", "https")
_TIMEOUT = 60.0  # seconds without a byte
_BLOCK = 1 << 20


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
    if not name or name.startswith((".", "-")) or len(name) > 200 or not all(c.isalnum() or c in "._-+=" for c in name):
        raise UsageError(f"golden name {name!r}: expected letters, digits and ._-+=, at most 200; give another --name")
    return name


def contents_of(golden: Golden, path: Path, project: Project) -> Path | None:
    """The recording that belongs to the golden at ``path``, checked by size and SHA-256; None for a thin golden.

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
    if not _is_url(project.contents):
        elsewhere = project.root / project.contents / contents.file
        if not elsewhere.exists():
            raise MissingError(f"{elsewhere}: no such file (golden-contents = {project.contents!r})")
        _check(elsewhere, contents)
        return elsewhere
    return _fetched(contents, project)


def cache_folder() -> Path:
    """Where fetched contents are kept, by SHA-256."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "fusion-replay" / "goldens"


def _check(path: Path, expected: Contents) -> None:
    with path.open("rb") as file:
        refuse_lfs_pointer(file.read(200), str(path))
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


def _fetched(contents: Contents, project: Project) -> Path:
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
            digest = _download(url, part, contents.size)
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


def _download(url: str, target: tempfile._TemporaryFileWrapper[bytes], size: int) -> str:
    """Write exactly ``size`` bytes of ``url``; their SHA-256."""
    digest, left = hashlib.sha256(), size
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            while block := answer.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise DamagedSnapshotError(f"{url}: longer than the {size:,} bytes that were accepted: not used")
                digest.update(block)
                target.write(block)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, DamagedSnapshotError):
            raise
        why = " ".join(str(getattr(error, "reason", error)).split())  # of a redirect it has lines
        raise MissingError(f"{url}: can't be fetched: {why}") from None
    if left:
        raise DamagedSnapshotError(f"{url}: {size - left:,} bytes, the golden was accepted with {size:,}: not used")
    return digest.hexdigest()


def _is_url(where: str) -> bool:
    scheme, separator, _ = where.partition("://")
    if not separator:
        return False
    if scheme not in _SCHEMES:
        raise UsageError(f"golden-contents {where!r}: expected a folder, or a URL of {', '.join(_SCHEMES)}")
    return True


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts[:-1])


__all__ = ["CONTENTS", "NEW", "SUFFIX", "Folder", "checked_name", "contents_of", "document", "name_of"]
