"""Reports of trainings: a table for the terminal, JSON, an HTML page."""
