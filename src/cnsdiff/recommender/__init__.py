"""The estimator: its settings, fitting, and what is saved and served."""
