"""A recommender behind HTTP: events, answers, the live environment, versions."""
