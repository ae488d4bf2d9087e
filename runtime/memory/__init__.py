"""Memory of batches: estimates and limits."""
