"""How tables, numbers and progress look, on any screen."""
