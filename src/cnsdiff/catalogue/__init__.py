"""Published data sets: what there is, how to get it, how to read it."""

from cnsdiff.catalogue.entries import ENTRIES, Entry, find
from cnsdiff.catalogue.routes import ROUTES, Fetched, fetch
from cnsdiff.catalogue.store import home, load, status

__all__ = ["ENTRIES", "ROUTES", "Entry", "Fetched", "fetch", "find", "home", "load", "status"]
