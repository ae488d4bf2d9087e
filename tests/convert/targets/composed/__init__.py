"""Models whose texts choose a route or an adapter, or have a template, on the targets for devices."""
