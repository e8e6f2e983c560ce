"""Published data sets: what there is, how to get it, how to read it."""

from cnsdiff.catalogue.entries import ENTRIES, find
from cnsdiff.catalogue.entry import Entry
from cnsdiff.catalogue.fetch import ROUTES, Fetched, fetch
from cnsdiff.catalogue.load import load
from cnsdiff.catalogue.store import home, status

__all__ = ["ENTRIES", "ROUTES", "Entry", "Fetched", "fetch", "find", "home", "load", "status"]
