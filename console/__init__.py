"""What people touch: the command, the whole loop on one machine, the page."""
