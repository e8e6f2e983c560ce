"""Tables, numbers and progress on any screen."""
