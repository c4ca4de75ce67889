"""What a model and a guide are as programs: their draws, plates, parameters, and what runs them again."""
