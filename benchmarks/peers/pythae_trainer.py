"""A VAE on MNIST by pythae's trainer, with the paper's network."""

from __future__ import annotations

import tempfile

import torch
from pythae.data.datasets import BaseDataset
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor
from torch.utils.data import Dataset

from peers.mnist import PIXELS, arguments, network, parts, say
from peers.pythae_parts import Decoder, Encoder, vae
from peers.torch_loop import in_memory


def main() -> None:
    """Train, then evaluate the last weights on the test data."""
    asked = arguments()
    torch.manual_seed(asked.seed)
    train, validation, test = map(labelled, parts(asked.data_folder))
    encoder = network(PIXELS, asked.hidden, asked.encoder_layers, 2 * asked.latents)
    decoder = network(asked.latents, asked.hidden, asked.decoder_layers, PIXELS)
    model = vae(Encoder(encoder), Decoder(decoder), PIXELS, asked.latents)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=asked.epochs,
            per_device_train_batch_size=asked.batch,
            per_device_eval_batch_size=asked.batch,
            learning_rate=asked.learning_rate,
            seed=asked.seed,
            no_cuda=True,
        )
        BaseTrainer(model, train, validation, training_config=config, callbacks=[Said()]).train()
    say(-float(losses(model.eval(), test.data).mean()))


class Said(TrainingCallback):
    """Prints the held-out bound of every epoch."""

    def on_log(self, config: BaseTrainerConfig, logs: dict[str, float], **kwargs: object) -> None:
        print(f"epoch {kwargs['global_step']}: held-out {-logs['eval_epoch_loss']:.2f}")


def labelled(part: Dataset) -> BaseDataset:
    """Return the images in pythae's form."""
    (images,) = in_memory(part).tensors
    return BaseDataset(images, torch.zeros(len(images)))


@torch.no_grad()
def losses(model: torch.nn.Module, data: Tensor) -> Tensor:
    """Return the mean loss over pieces of equal size."""
    return torch.stack([model({"data": x}).loss for x in data.split(100)])


if __name__ == "__main__":
    main()
