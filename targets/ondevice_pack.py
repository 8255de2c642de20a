"""Packs the device program into ``ondevice.pyz``: the same bytes from any folder, umask and time."""

from __future__ import annotations

import io
import zipfile
from importlib import resources
from typing import Final

FILE_NAME: Final = "ondevice.pyz"
_SHEBANG: Final = b"#!/usr/bin/env python3\n"
_MAIN: Final = """import sys

from ondevice.cli import main

sys.exit(main())
"""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold


def pack() -> bytes:
    """The bytes of ``ondevice.pyz``: a zipapp (PEP 441) with sorted, stored members and fixed times and modes."""
    sources = {
        f"ondevice/{entry.name}": entry.read_bytes()
        for entry in resources.files("targets.ondevice").iterdir()
        if entry.name.endswith(".py") and entry.name != "__main__.py"
    }
    sources["__main__.py"] = _MAIN.encode()
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, wherever it is packed
            info.external_attr = 0o100644 << 16
            archive.writestr(info, sources[name])
    return buffer.getvalue()
