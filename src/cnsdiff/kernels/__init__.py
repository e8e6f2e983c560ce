"""Faster equals of plain torch, and the memory they need."""
