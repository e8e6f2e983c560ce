"""What all other packages stand on: errors, settings, the registry, storage."""
