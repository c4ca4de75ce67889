"""A callback that does something before every epoch."""

import pyro_dvae as dv


class BeforeEpoch(dv.Callback):
    """Calls functions of the epoch (from 0), once for several models that are trained together."""

    def __init__(self, *functions):
        self.functions = functions

    def start(self, run):
        if not run.number:
            for function in self.functions:
                function(run.epoch)

    def epoch(self, run):
        if run.epoch < run.epochs:
            self.start(run)

    def __deepcopy__(self, memo):
        return self
