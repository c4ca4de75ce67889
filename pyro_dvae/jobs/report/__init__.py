"""``pyro-dvae report``: a self-contained HTML page about one or several runs."""
