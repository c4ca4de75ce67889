"""The draws that a bound made of a random program, by site, row, copy, corruption and particle."""

from __future__ import annotations

from program_pyro import Form
from program_spec import ROWS, SIZE
from torch import Tensor


def recorded_draws(form: Form) -> dict[tuple, Tensor]:
    """Return the draws of the last estimate by key: (site, ..., corruption, particle)."""
    program, runs = form.program, form.runs
    last = max(i for i, (kind, _) in enumerate(runs) if kind == "model")
    m_count, k_count = program.option("num_corruptions"), program.option("num_particles")
    j_count = program.option("num_mixture", 0)
    looped = not program.option("vectorize_particles", True) and (m_count * k_count > 1 or j_count > 1)
    again = [run for kind, run in runs[last + 1 :] if kind == "guide"]
    found: dict[tuple, Tensor] = {}
    for m in range(m_count):
        for k in range(k_count):
            if looped:
                run = runs[last - 1 - 2 * (m_count * k_count - 1 - m * k_count - k)][1]
                found |= _picked(form, run, m, k, {})
            else:
                found |= _picked(form, runs[last - 1][1], m, k, {"m": m, "k": k})
    for j in range(j_count if again else 0):
        if looped:
            run, where = again[j * m_count * k_count], {}
        else:
            run, where = again[-1], {"j": j}
        found |= _picked(
            form, {n: v for n, v in run.items() if n in ("x_tilde", "u", "dropout")}, -1 - j, 0, where
        )
    return found


def _picked(form: Form, run: dict[str, Tensor], m: int, k: int, where: dict[str, int]) -> dict[tuple, Tensor]:
    program = form.program
    several = [
        name
        for name, count in (("m", program.option("num_corruptions")), ("k", program.option("num_particles")))
        if count > 1
    ]
    dims = {name: -form.nest - 1 - i for i, name in enumerate(several)}
    dims["j"] = -form.nest - 1 - len(several)

    def of(value: Tensor, event: int, row: int | None, inner: int | None, *element: int) -> Tensor:
        value = value.detach()
        index = {dims[name]: position for name, position in where.items() if name in dims}
        index |= {-1: row} if row is not None else {}
        index |= {-2: inner} if inner is not None else {}
        batch = value.dim() - event
        for dim, position in index.items():
            if batch + dim >= 0 and value.shape[batch + dim] > 1:
                value = value.narrow(batch + dim, position, 1)
        if element:
            value = value[(..., *element)]
        assert value.numel() == 1, (value.shape, where)
        return value.reshape(())

    found: dict[tuple, Tensor] = {}
    for row in range(ROWS):
        for d in range(SIZE if program.noise else 0):
            tilde, place = run["x_tilde"], program.noise.place
            if place == "pixels":
                found["x_tilde", m, row, d] = of(tilde, 0, row, d)
            elif place == "all":
                found["x_tilde", m, row, d] = of(tilde, 2, None, None, row, d)
            else:
                found["x_tilde", m, row, d] = of(tilde, 1, row, None, d)
        if program.auxiliary:
            own = None if program.auxiliary == "shared" else row
            found["u", m, own or 0] = of(run["u"], 0, own, None)
        if program.dropout:
            if program.noise is not None and program.noise.place == "all":  # rows are part of the event
                found["dropout", m, k, row] = of(run["dropout"], 1, None, None, row)
            else:
                found["dropout", m, k, row] = of(run["dropout"], 0, row, None)
    for latent in program.latents:
        for row in [None] if latent.place == "global" else range(ROWS):
            for copy in range(latent.copies):
                key = (latent.name, row, copy, m, k)
                if latent.place == "sequential":
                    value = run.get(f"{latent.name}_{copy}")
                else:
                    value = run.get(latent.name)
                if value is None:
                    continue
                if latent.place == "event":
                    found[key] = of(value, 1, row, None, copy)
                else:
                    found[key] = of(value, 0, row, copy if latent.place == "inner" else None)
    return found
