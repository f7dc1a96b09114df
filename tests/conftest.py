"""Fixtures that every test may use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images, official weights and reference values; absent outside a full checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is absent: {SHARED} is no folder (see docs/testing.md)")
    return SHARED
