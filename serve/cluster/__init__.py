"""Several servers behind a balancer: `cluster.toml`, configurations of HAProxy, Envoy and Prometheus, and their state."""
