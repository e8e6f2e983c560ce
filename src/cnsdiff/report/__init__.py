"""What was found, as one HTML file that opens offline."""
