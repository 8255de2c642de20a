"""Runs the device program from a checkout: ``python -m targets.ondevice``."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
