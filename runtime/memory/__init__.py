"""Memory of batches: estimates, and limits that hold them back."""
