"""Fletcher on a cluster of Ray: replicas that answer requests, behind Ray Serve's HAProxy. Only calls import `ray`."""
