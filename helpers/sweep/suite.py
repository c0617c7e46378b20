"""The suite of attacks that judges a network: a case counts by the worst of them."""

from dataclasses import replace
from typing import Any

from helpers.sweep.experiment import Experiment
from helpers.transfer import Transfer
from helpers.weights import Trained


def suite(experiment: Experiment, other: Trained | None = None) -> dict[str, Experiment]:
    """Attacks that differ in loss, step size, start and knowledge.

    A case counts by the worst of them.

    Args:
        experiment: the white-box attack with the paper's PGD; it is the first.
        other: a network from which noise is carried over, too.

    Source: the reason for several, and for their worst case per image: Croce and Hein,
    arXiv:2003.01690 (classification), and Croce et al., arXiv:2306.12941 (segmentation).
    """
    large = Transfer(stride=0.2, momentum=1.0)
    fast = {"attack": "fast pgd"}
    ways: dict[str, dict[str, Any]] = {
        "PGD": {},
        "cross-entropy": {"loss": "cross-entropy", "transfer": large},
        "faster PGD": fast,
        "faster PGD, random start": fast | {"random_start": True},
        "margin": fast | {"loss": "margin"},
        "one step": {"attack": "fgsm"},
        "random noise": {"attack": "random noise"},
    }
    if other:
        ways["from another network"] = fast | {"crafted_on": other.digest}
    return {name: replace(experiment, **change) for name, change in ways.items()}
