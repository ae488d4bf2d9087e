"""The audit log: a line for every request, change and refusal, in a chain of hashes that shows what was altered."""
