"""Several devices behind one session."""
