"""Table to DNS answers."""
