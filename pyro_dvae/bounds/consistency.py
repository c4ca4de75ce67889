"""How far corruption moves the encoder: the divergence that CR-VAE keeps small."""

from __future__ import annotations

from pyro_dvae.distributions.divergence import closed_form_kl
from pyro_dvae.programs.draws import Draws, Term
from pyro_dvae.programs.looped import joined_terms
from pyro_dvae.programs.rerun import on_clean_input


def consistency_terms(draws: Draws, weight: float) -> list[Term]:
    """Return −λ KL(q(z|x̃) ‖ q(z|x)) by latent (Sinha and Dieng 2021), at the draws of its parents.

    In closed form where there is one, else sampled as log q(z|x̃) − log q(z|x).
    """
    if draws.runs:
        return joined_terms([consistency_terms(run, weight) for run in draws.runs], draws)
    clean = {site["name"]: site for site in on_clean_input(draws).counted_sites()}
    terms = []
    for site in draws.counted_sites():
        value = closed_form_kl(site["fn"], clean[site["name"]]["fn"])
        if value is None:
            value = site["unscaled_log_prob"] - clean[site["name"]]["unscaled_log_prob"]
        terms.append(Term(site, -1.0, weight * value))
    return terms
