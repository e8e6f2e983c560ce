"""Audit of a log: the shifts that it can show, the cost of each, and what to use instead."""
