"""Salt-and-pepper noise, with one rate or a rate for each element."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.corruptions.replacement import Atoms, ReplacingCorruption
from pyro_dvae.errors import InputError
from pyro_dvae.levels import LevelLike


class SaltAndPepper(ReplacingCorruption):
    """Replace each element by 1 (salt) or 0 (pepper) with probability ``rate``.

    The code of Im et al. (2017) replaces a pixel at level c by a Bernoulli(c) draw, so mostly by 0;
    ``salt="rate"`` does the same.

    :param rate: probability of a replacement, in [0, 1]: a number, a tensor with a value for each element, a
        schedule, or a network applied to the data.
    :param salt: share of 1 among the replaced elements, in [0, 1], or ``"rate"``.
    :param learnable: learn the rate, starting at ``rate`` and bounded below by ``minimum``.
    :param temperature: relax the corruption (see :class:`ReplacingCorruption`); not allowed with
        ``salt="rate"``, whose share has no pathwise gradient.
    """

    def __init__(
        self,
        rate: LevelLike,
        salt: float | str = 0.5,
        *,
        learnable: bool = False,
        minimum: float = 0.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__(rate, learnable=learnable, minimum=minimum, temperature=temperature)
        if isinstance(salt, str) and salt != "rate":
            raise InputError(f"salt: expected a number in [0, 1] or 'rate', got {salt!r}")
        if isinstance(salt, str) and temperature is not None:
            raise InputError(
                "temperature: a relaxed corruption has no gradient for the share of salt='rate'; "
                "give a number for salt, or leave temperature out"
            )
        self.salt = salt if isinstance(salt, str) else checks.number("salt", salt, 0.0, 1.0)

    def atoms(self, x: Tensor, rate: Tensor) -> Atoms:
        share = rate if isinstance(self.salt, str) else self.salt
        return [(1.0, share), (0.0, 1 - share)]


def mean_image_rate(data: Tensor, level: float) -> Tensor:
    """Return rates in proportion to the mean of the data, with ``level`` as their average::

        rate_i = min(1, c m_i),   m = mean of the data over its rows,   c such that mean_i rate_i = level

    Elements that are mostly 0, such as the border of digit images, stay nearly uncorrupted, and elements with
    a high mean are corrupted more. Pass the result to a corruption: ``SaltAndPepper(mean_image_rate(train,
    0.1))``.

    :param data: values ≥ 0, shape [N, *event]; the training data.
    :param level: the average of the rates, in [0, 1].
    :returns: rates of shape [*event], in the type of ``data`` (the default one for whole numbers).
    :raises InputError: if the share of elements that are ever above 0 is below ``level``, so that no rates in
        [0, 1] in proportion to the mean have this average.
    """
    checks.data("data", data)
    level = checks.number("level", level, 0.0, 1.0)
    mean = data.double().mean(0)
    if float(data.min()) < 0:
        raise InputError(f"data: expected values of at least 0, got {float(data.min()):g}")
    largest = float((mean > 0).double().mean())
    if level > largest:
        raise InputError(
            f"level: expected at most {largest:.3g}, the share of elements ever above 0, got {level:g}"
        )
    kind = data.dtype if data.is_floating_point() else torch.get_default_dtype()
    return _filled(mean.flatten(), level).reshape(mean.shape).to(kind)


def _filled(mean: Tensor, level: float) -> Tensor:
    """Return min(1, c mean) of average ``level``: with the k largest at 1, c = (level D − k) / Σ rest."""
    ordered = mean.sort(descending=True).values
    rest = ordered.flip(0).cumsum(0).flip(0)  # from the k-th on
    wanted = level * len(mean) - torch.arange(len(mean), dtype=mean.dtype, device=mean.device)
    factor = torch.where(rest > 0, wanted / rest.clamp_min(torch.finfo(mean.dtype).tiny), 0.0)
    first = int((factor * ordered <= 1 + 1e-9).to(torch.uint8).argmax())  # the smallest valid k
    return (factor[first] * mean).clamp(0.0, 1.0)
