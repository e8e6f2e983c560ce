"""Settings of a training that takes a blink."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, Any] = {
    "training": {"epochs": 3, "batch_size": 128, "fhn_every": None, "dial": "off"},
    "backbone_options": {"dim": 4},
    "threads": 1,
}
