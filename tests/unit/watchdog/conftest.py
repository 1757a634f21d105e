"""Jobs for the tests of the watchdog; none of their processes is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog_jobs import Job


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[dict[int, Job]]:
    """Jobs that run at the same time, one for each rank that something happens to; what still lives at the end is killed."""
    jobs = {}
    for rank in (0, 2):
        (tmp_path / str(rank)).mkdir()
        jobs[rank] = Job(tmp_path / str(rank))
    yield jobs
    for job in jobs.values():
        for process in job.ranks:
            process.kill()
            process.join()


@pytest.fixture
def job(jobs: dict[int, Job]) -> Job:
    return jobs[0]
