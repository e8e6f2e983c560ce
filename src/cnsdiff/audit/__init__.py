"""What a log says about shifts: which it can show, what each costs, and what to use instead."""
