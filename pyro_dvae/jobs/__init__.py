"""Jobs: training runs and their folders, evaluation, experiments, and the command line."""
