"""Origin of artifacts: limits that a manifest cannot widen, the zoo's own references, and signatures."""
