"""The content-addressed store: every stage's result, hashed, cached, whole or absent."""

from pipeline.store.entries import Entry, FileRef
from pipeline.store.garbage import GcReport
from pipeline.store.keys import canonical_json, make_key
from pipeline.store.place import default_store_root
from pipeline.store.store import Store

__all__ = ["Entry", "FileRef", "GcReport", "Store", "canonical_json", "default_store_root", "make_key"]
