"""Any file to interactions."""
