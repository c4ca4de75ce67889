"""Count the outcomes of random programs: ``count_programs.py [programs] [first seed]``."""

import sys

import torch
from program_check import outcome, survey
from program_likelihood import likelihood_outcome


def table(title, rows):
    """Print pairs of a name and a count as a Markdown table."""
    print(f"\n| {title} | programs |\n|---|---:|")
    for name, count in rows:
        print(f"| {name if isinstance(name, str) else ', '.join(name)} | {count:,} |")


def main(count=10_000, first=0):
    """Print the tables; end with an error where a program differs or fails."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    failed = False
    for kind, run in (("bound", outcome), ("held-out likelihood", likelihood_outcome)):
        counts, wrong = survey(range(first, first + count), run)
        table(kind, counts["status"].most_common())
        if kind == "bound":
            table("bound", sorted(counts["bounds"].items()))
        table("compared", counts["checks"].most_common())
        table("refusal", counts["refusals"].most_common())
        for seed, found in wrong:
            print(f"seed {seed}: {found.status}: {found.detail}")
        failed = failed or bool(wrong)
    sys.exit(failed)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
