"""Fletcher on a cluster of Ray: replicas that answer requests, behind Ray Serve's HAProxy. `ray` is imported in calls alone."""
