"""One run: data, folder and device from the options; the trainer; the evaluation and pictures at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro

from pyro_dvae.bounds import DenoisingELBO
from pyro_dvae.distributed import Ranks, join
from pyro_dvae.distributed.ranks import together
from pyro_dvae.evaluation.estimates import evaluate_bound_over_ranks
from pyro_dvae.jobs import folder as run_folder
from pyro_dvae.jobs import guess, run_request
from pyro_dvae.jobs.command import at_end, go_on_with
from pyro_dvae.jobs.data import prepare
from pyro_dvae.jobs.ending import closing_table, draw_pictures, test_results
from pyro_dvae.jobs.options import TrainRequest
from pyro_dvae.jobs.parts import (
    build_bound,
    build_clean_bound,
    build_corruption,
    build_decoder,
    build_encoder,
    check_training,
    pick_device,
    require_memory,
    training_settings,
)
from pyro_dvae.models import DVAE
from pyro_dvae.ownership import own
from pyro_dvae.programs.support import require_observed
from pyro_dvae.random_state import forked
from pyro_dvae.text import show, to_stderr
from pyro_dvae.training import Callback, CSVLog, EarlyStopping, TensorBoard, Trainer
from pyro_dvae.training.progress import Progress

Program = Callable[..., Any]
_PICTURED = 12  # validation images in a log, with their reconstructions


class TrainingRun:
    """Everything around the Pyro code of a training script, from one :class:`TrainRequest`.

    It seeds Pyro and clears its param store like a script; other parts of the library do not. Under
    ``torchrun``, it joins the other processes; rank 0 writes and prints for all.

    :param request: the request of the command line.
    """

    def __init__(self, request: TrainRequest) -> None:
        self.options, stored, resumed_folder = run_request.options_and_folder(request)
        check_training(self.options)
        self.folder = resumed_folder or Path()
        self.group = join(self.options.device)
        self.ranks = Ranks.present(self._last_checkpoint)
        self.quiet = request.quiet or not self.ranks.first
        self.progress: Progress | bool | None = False if self.quiet else None
        self.device = pick_device(self.group.device)
        build_corruption(self.options)  # refuses bad options before the data are loaded
        self.bound = build_bound(self.options)
        with self.ranks.first_goes_before():
            self.data = run_request.load(self.options, stored)
        self.options, guessed = guess.by_values(self.options, request.given, self.data, stored)
        self.options = guess.by_size(self.options, request.given, self.data, stored)
        self.corruption = build_corruption(self.options, self.data.train)
        run_request.check_range(self.options, self.data)
        parts = prepare(self.data, self.options, self.device)
        self.train, self.validation, self.test = parts.train, parts.validation, parts.test
        self.visit = parts.visit
        pyro.clear_param_store()
        pyro.set_rng_seed(self.options.seed)
        shape = (self.data.dimension, self.data.image_shape, self.data.columns)
        require_memory(self.options, len(self.train), *shape)
        self.encoder = build_encoder(self.options, *shape).to(self.device)
        self.decoder = build_decoder(self.options, *shape, self.data.train).to(self.device)
        self.corruption.to(self.device)
        if self.options.binarisation == "none":
            self._require_support()
        self.config = run_request.config_of(self.options, self.data, stored)
        self.folder = self._owned(resumed_folder, request.output)
        # A run that was killed before its first checkpoint starts again, with the same result.
        self.resumed = (self.folder / run_folder.CHECKPOINT).exists()
        go_on_with(self.folder / run_folder.CHECKPOINT)
        if self.ranks.first and not self.resumed:
            run_folder.write_json(self.folder / run_folder.CONFIG, self.config)
        stands_in = self.data.substituted_for  # a warning said why
        self.say(f"data: {self.data.name} ({f'not {stands_in}' if stands_in else self.data.source})")
        for line in guessed:
            self.say(line)
        self.say(f"run folder: {self.folder}")

    def _require_support(self) -> None:
        """Refuse values outside the support of the likelihood, before a folder is made."""
        model = DVAE(self.encoder, self.decoder, self.corruption).model
        with pyro.get_param_store().scope():
            for part in (self.train, self.validation, self.test):
                require_observed(model, self.visit(part))

    def _owned(self, resumed: Path | None, output: str | None) -> Path:
        """Return the run folder, and lock it for this process (with several, for rank 0)."""

        def take() -> Path | None:
            if not self.ranks.first:
                return None
            if resumed is None:
                folder, self._lock = run_folder.new_folder(output, run_request.stem(self.options, self.data))
            else:
                folder, self._lock = resumed, own("resume", resumed)
            at_end(self.release)
            run_folder.clean_up(folder)
            return folder

        folder = together(self.ranks, take)[0]
        assert folder is not None
        return folder

    def release(self) -> None:
        """Let other processes write to the run folder."""
        if self.ranks.first:
            self._lock.release()

    def _last_checkpoint(self) -> str:
        path = self.folder / run_folder.CHECKPOINT
        return f"; last good checkpoint: {path}" if path.exists() else ""

    def say(self, line: str) -> None:
        """Print a line to standard error, like progress."""
        if not self.quiet:
            to_stderr(line)

    def trainer(
        self, model: Program, guide: Program, bound: DenoisingELBO, callbacks: Sequence[Callback] = ()
    ) -> Trainer:
        """Return the training loop; iterate over it, and over each of its epochs, and call its ``step``."""
        options = self.options
        validation_bound = build_clean_bound(options)

        def evaluate() -> float:
            seen = self.visit(self.validation)
            return evaluate_bound_over_ranks(model, guide, seen, loss=validation_bound, ranks=self.ranks).mean

        trainer = Trainer(
            model,
            guide,
            self.train,
            loss=bound,
            evaluate=evaluate,
            callbacks=[*self._callbacks(), *callbacks],
            learning_rate=options.learning_rate,
            transform=self.visit,
            seed=options.seed,
            checkpoint=self.folder / run_folder.CHECKPOINT,
            checkpoint_every=options.validate_every,
            resume=self.resumed,
            config=self.config["options"],
            metrics=self.folder / run_folder.METRICS,
            progress=self.progress,
            device=self.device,
            may_change=run_request.MAY_CHANGE,
            compile=options.compiled,
            **training_settings(options),
        )
        if self.resumed and self.ranks.first:  # options may have changed, for example the number of epochs
            run_folder.write_json(self.folder / run_folder.CONFIG, self.config)
        return trainer

    def _callbacks(self) -> list[Callback]:
        """Return early stopping and the log, as in the options."""
        options = self.options
        found: list[Callback] = [] if options.patience is None else [EarlyStopping(options.patience)]
        if options.log == "csv":
            found.append(CSVLog(self.folder / run_folder.LOG))
        if options.log == "tensorboard":
            shape = self.data.image_shape
            with forked():
                images = None if shape is None else self.visit(self.validation[:_PICTURED]).cpu()
            found.append(TensorBoard(self.folder / run_folder.TENSORBOARD, images=images, image_shape=shape))
        return found

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Evaluate the best epoch on the test data, draw the pictures, print and return the results."""
        started = time.perf_counter()
        trainer.load_best()
        for part in (self.encoder, self.decoder, self.corruption):
            part.eval()
        results = {"data": self.config["data"]} | test_results(
            trainer, self.visit(self.test), self.options, self.corruption, self.ranks, self.say
        )

        def write() -> None:
            run_folder.require_present(self.folder)
            pictures = draw_pictures(trainer, self.visit(self.test), self.options, self.data, self.folder)
            results["seconds"]["evaluation"] = round(time.perf_counter() - started, 1)
            run_folder.write_json(self.folder / run_folder.RESULTS, results)
            self.release()
            show(closing_table(results, self.folder, pictures))

        # All processes end together, because one that ends during communication may abort in its library's
        # threads.
        together(self.ranks, write if self.ranks.first else lambda: None)
        self.group.leave()
        return results
