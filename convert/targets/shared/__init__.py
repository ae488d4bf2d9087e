"""Parts of graphs that several targets share."""
