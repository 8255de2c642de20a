"""Edits: what was changed on the user's model, in order, as data that is replayed on a fresh one."""

from __future__ import annotations

from pipeline.edits.base import Edit
from pipeline.edits.channels import Channels
from pipeline.edits.document import apply_edits, edits_from_json, edits_to_json
from pipeline.edits.remove import Remove
from pipeline.edits.replace import Replace
from pipeline.edits.sparse import Sparse

__all__ = ["Channels", "Edit", "Remove", "Replace", "Sparse", "apply_edits", "edits_from_json", "edits_to_json"]
