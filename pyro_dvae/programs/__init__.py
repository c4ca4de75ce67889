"""Models and guides as programs: their draws, plates, parameters, and further runs on the same draws."""
