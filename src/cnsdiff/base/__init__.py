"""The base of all other packages: errors, settings, the registry, storage."""
