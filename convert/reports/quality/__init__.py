"""Quality reports: tables for the terminal, JSON, HTML pages."""
