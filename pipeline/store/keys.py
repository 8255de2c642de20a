"""One JSON text for one value, and the keys made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from targets.files import sha256_bytes

SCHEMA: Final = 1
"""Version of keys and records; a store may hold several, and each version reads its own."""


def canonical_json(obj: object) -> bytes:
    """The one ASCII JSON text of a value: sorted keys, no spaces, floats by repr; a tuple counts as a list.

    Raises:
        ValueError: It holds a NaN or an infinity.
        TypeError: It holds something that JSON has no word for, or a key that is no string.
    """
    return json.dumps(_plain(obj, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def make_key(payload: Mapping[str, object]) -> str:
    """The key of a result: sha256 (64 hex digits) of all that it depends on, and of the version of the store.

    The payload names stage and version, digests of inputs, config, profile and tool versions; no path, host or time.
    """
    return sha256_bytes(canonical_json({"schema": SCHEMA, "payload": payload}))


def _plain(obj: object, where: str) -> object:
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{where} is {obj!r}, which JSON has no word for")
        return obj
    if isinstance(obj, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(obj)]
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}, which is not a string")
        return {key: _plain(item, f"{where}.{key}") for key, item in obj.items()}
    raise TypeError(f"{where} is a {type(obj).__name__}, which JSON has no word for")
