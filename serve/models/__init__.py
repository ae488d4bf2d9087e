"""Models of a server: their names and versions, and how they are loaded and replaced."""
