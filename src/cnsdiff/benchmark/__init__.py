"""Many methods on many datasets: one budget, one search, results that survive a kill."""
