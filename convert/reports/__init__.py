"""Reports of verification: tables for the terminal, HTML pages."""
