"""A sampler, a backbone and a scenario for cnsdiff, known by their entry points."""
