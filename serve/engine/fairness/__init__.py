"""Fair sharing of a queue: shares of clients, order of requests, and parts of streams that wait for room."""
