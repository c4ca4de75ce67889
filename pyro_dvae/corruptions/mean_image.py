"""A rate of corruption for each element, by the mean of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_dvae import checks
from pyro_dvae.errors import InputError


def mean_image_rate(data: Tensor, level: float) -> Tensor:
    """Return rates in proportion to the mean of the data, with ``level`` as their average::

        rate_i = min(1, c m_i),   m = mean of the data over its rows,   c such that mean_i rate_i = level

    Elements that are mostly 0, the border of images of digits, say, are left alone, and those that vary are
    corrupted the more. Give the result to a corruption: ``SaltAndPepper(mean_image_rate(train, 0.1))``.

    :param data: values ≥ 0, shape [N, *event]; the training data.
    :param level: the average of the rates, in [0, 1].
    :returns: rates of shape [*event], in the type of ``data`` (the default one for whole numbers).
    :raises InputError: fewer than ``level`` of the elements are ever above 0, so that no rates in [0, 1] in
        proportion to the mean have this average.
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
    """Return min(1, c mean) with this average: with the k largest at 1, c = (level D − k) / Σ of the rest."""
    ordered = mean.sort(descending=True).values
    rest = ordered.flip(0).cumsum(0).flip(0)  # from the k-th on
    wanted = level * len(mean) - torch.arange(len(mean), dtype=mean.dtype, device=mean.device)
    factor = torch.where(rest > 0, wanted / rest.clamp_min(torch.finfo(mean.dtype).tiny), 0.0)
    first = int((factor * ordered <= 1 + 1e-9).to(torch.uint8).argmax())  # the fewest at 1 that do
    return (factor[first] * mean).clamp(0.0, 1.0)
