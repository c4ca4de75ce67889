"""docs/own_data.md: the errors that it describes are raised."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import pyro_dvae as dv

PAGE = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text()


class Uneven(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, number):
        return torch.zeros(number + 2)


X = torch.zeros(4, 3)
REFUSED = {
    "lists of numbers": ([[0.0] * 3],),
    "a dict of arrays": ({"x": X},),
    "data arguments with different numbers of rows": (X, X[1:]),
    "a loader and further data arguments": (DataLoader(X), X),
    "a generator or another iterator": (iter([X]),),
    "columns of text, dates or categories": (pd.DataFrame({"a": ["b", "c"]}),),
    "missing cells, NaN, infinity": (pd.DataFrame({"a": [1.0, np.nan]}),),
    "images of different sizes": (Uneven(),),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_the_page_says_is_refused(given):
    assert f"| {given} |" in PAGE
    with pytest.raises(dv.InputError, match=r"^data"):
        dv.fit(lambda *x: None, lambda *x: None, *REFUSED[given], loss=dv.TraceDenoising_ELBO(), epochs=1)


def test_the_page_lists_nothing_else():
    rows = re.findall(
        r"^\| (.*?) \|", PAGE.partition("## What is refused")[2].partition("\n## ")[0], re.MULTILINE
    )
    # Tested with processes, likelihoods (programs/test_support.py), a fit (using/test_verbs.py), plates
    # (rows/test_sources.py, programs/test_data_plate.py), guides of Pyro (training/test_row_parameters.py),
    # and modules of one name (programs/test_statements.py).
    elsewhere = {
        "batches of some rows, for a guide without an encoder (`AutoNormal` of latents in the data plate)",
        "a table with other columns than those of training, or in another order",
        "plates of the rows with another size in the guide than in the model",
        "a new model whose modules have the names of an earlier one's in Pyro's param store",
        "a single row, or a data set that yields single rows one by one",
        "a loader with several processes (`torchrun`)",
        "values outside the support of the likelihood, such as bytes for a Bernoulli",
        "a likelihood in half precision (`float16`, `bfloat16`), for estimates of log p(x)",
    }
    assert set(rows) - {"given", "---"} - set(REFUSED) == elsewhere
