"""Reports of a sweep: tables, plots and an HTML page."""
