"""Hosts for a test, or the reason why this machine cannot hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Cluster, why_not
from tests.integration.conftest import data, embedded  # noqa: F401  (fixtures: the small real corpus)


@pytest.fixture(scope="session")
def reason() -> str | None:
    """Why there can be no cluster here; None if there can."""
    return why_not()


@pytest.fixture
def cluster(reason: str | None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two hosts, or as many as the test asks for by indirect parametrisation; gone when the test is."""
    if reason:
        pytest.skip(reason)
    with Cluster(tmp_path / "cluster", getattr(request, "param", 2)) as running:
        yield running
