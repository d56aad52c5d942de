# SPDX-License-Identifier: Apache-2.0
"""A series of steps judged by several processes: each opens the snapshot itself and hands its outcomes back.

Nothing heavy is imported on the way in: a child limits the threads of its BLAS by the environment, which numpy reads
when it is first imported.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import MissingError, SnapshotError, UsageError
from fusion_replay.system import platform

if TYPE_CHECKING:
    from fusion_replay.replaying.judge import Plan
    from fusion_replay.replaying.series import Outcome
    from fusion_replay.snapshot import RecordedStep, Snapshot

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What decides how many threads numpy's BLAS takes; where the user sets one of them, that stands."""


def limit_threads(n: int) -> None:
    """``n`` threads for the BLAS of a numpy that is yet to be imported here, unless the environment says otherwise.

    OpenBLAS takes every core, and its threads wait for each other by spinning: what runs beside them crawls.
    """
    if not any(os.environ.get(name) for name in THREADS):
        os.environ.update(dict.fromkeys(THREADS, str(n)))


@dataclass(frozen=True, slots=True)
class _Job:
    """What every child is told. Plain data: it arrives before numpy may be imported.

    ``imports`` are files and modules of user operators as ``--import`` has them, ``modules`` others that declare some;
    ``operators`` are the types that must be known then.
    """

    path: str
    recording: str
    weights: str | None
    plan: tuple[str, str, str]
    cache_bytes: int
    threads: int
    imports: tuple[str, ...]
    modules: tuple[str, ...]
    operators: tuple[str, ...]


def judge_in_processes(
    snapshot: Snapshot,
    steps: Sequence[RecordedStep],
    stretches: Sequence[Sequence[int]],
    plan: Plan,
    cache_bytes: int,
    workers: int,
) -> Generator[tuple[int, Outcome], None, None]:
    """Numbers of ``steps`` and their outcomes, stretch by stretch in the order given.

    Raises:
        SnapshotError: contents are damaged, or the file was replaced meanwhile.
        UsageError: an operator was declared where no other process can find it.
        MissingError: a process died.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads that it does not have
    stop = context.Event()
    job = _job(snapshot, plan, cache_bytes // workers, workers)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(job, stop))
    try:
        with platform.children_ignore_interrupts():
            waiting = [pool.submit(_judge, [steps[i].row for i in stretch]) for stretch in stretches]
        for stretch, future in zip(stretches, waiting, strict=True):
            yield from zip(stretch, future.result(), strict=True)
    except BrokenProcessPool as error:
        raise MissingError(
            f"{snapshot.path}: a worker process died: out of memory, killed, or started by a script that lacks "
            '`if __name__ == "__main__":`; use fewer workers, or one'
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _job(snapshot: Snapshot, plan: Plan, cache_bytes: int, workers: int) -> _Job:
    from fusion_replay import refs
    from fusion_replay.refs import plugins

    plugins.ready()
    users = refs.user_specs()
    return _Job(
        path=os.path.abspath(snapshot.path),
        recording=snapshot.index.recording,
        weights=_weights(snapshot),
        plan=(plan.rule, plan.reference, plan.array),
        cache_bytes=cache_bytes,
        threads=max(1, platform.cores() // workers),
        imports=plugins.loaded(),
        modules=tuple(dict.fromkeys(filter(None, (_module(spec.source) for spec in users)))),
        operators=tuple(spec.type for spec in users),
    )


def _weights(snapshot: Snapshot) -> str | None:
    """The side file in use."""
    side = snapshot.store.side
    return None if side is None or side.path is None else os.path.abspath(side.path)


def _module(source: str) -> str | None:
    """The module in which ``module.qualified.name`` stands, where another process can import it by that name."""
    name = source
    while name and name not in sys.modules:
        name = name.rpartition(".")[0]
    return name if name and name.partition(".")[0] not in ("__main__", "imported") else None


# --- in the child ---------------------------------------------------------------------------------------------------

_job_here: _Job
_stop: Any
_opened: Snapshot | None = None


def _start(job: _Job, stop: Any) -> None:
    """Must not raise: what goes wrong is found by the first stretch, whose error reaches the caller."""
    global _job_here, _stop
    _job_here, _stop = job, stop
    limit_threads(job.threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _judge(rows: Sequence[int]) -> list[Outcome]:
    """The outcomes of the steps in these rows; fewer once the parent has said stop."""
    from fusion_replay.replaying.judge import Plan
    from fusion_replay.replaying.series import judge_series

    snapshot = _snapshot()
    steps = [snapshot.at(row) for row in rows]
    found = []
    for _, outcome in judge_series(snapshot, steps, range(len(steps)), Plan(*_job_here.plan), _job_here.cache_bytes):
        found.append(outcome)
        if _stop.is_set():
            break
    return found


def _snapshot() -> Snapshot:
    global _opened
    if _opened is None:
        from fusion_replay.snapshot import open_snapshot

        _load_operators()
        opened = open_snapshot(_job_here.path, cache_bytes=_job_here.cache_bytes, weights=_job_here.weights)
        if opened.index.recording != _job_here.recording:
            raise SnapshotError(f"{_job_here.path}: another recording lies there now; replay it again")
        _opened = opened
    return _opened


def _load_operators() -> None:
    from fusion_replay import refs
    from fusion_replay.refs import plugins

    for where in _job_here.imports:
        plugins.load(where)
    plugins.ready()
    for name in _job_here.modules:
        with contextlib.suppress(ImportError):  # told below, by the operator's name
            importlib.import_module(name)
    here = {spec.type for spec in refs.user_specs()}
    lost = [name for name in _job_here.operators if name not in here]
    if lost:
        raise UsageError(
            f"operator {lost[0]!r} is declared where worker processes can't find it; put it into a file for --import "
            "(fusion_replay.refs._plugins.load), or use one worker"
        )
