"""Page `/playground`: its files, which browsers load, and the rules under which they load them."""
