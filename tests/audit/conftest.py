"""One small log for all tests of audits."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_parts import log_frame


@pytest.fixture(scope="session")
def log(tmp_path_factory) -> Path:
    """A CSV file of ratings."""
    file = tmp_path_factory.mktemp("audit-log") / "shop.csv"
    log_frame().write_csv(file)
    return file
