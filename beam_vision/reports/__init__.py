"""A run as one HTML page that holds everything it shows."""
