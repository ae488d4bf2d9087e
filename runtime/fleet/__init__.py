"""Session on several devices."""
