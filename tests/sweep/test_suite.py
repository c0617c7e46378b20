"""The suite: attacks that differ, and the worst of them for each case."""

import pandas as pd
import toys

from helpers.evaluation import worst_of
from helpers.sweep import Goal, run, suite, white_box
from helpers.weights import Trained, state_digest


def test_the_worst_of_a_suite_is_no_better_than_any_of_its_attacks(tmp_path):
    data, network = toys.dataset(), toys.unet()
    own, other = (
        Trained(n, state_digest(n.state_dict()), None, ()) for n in (network, toys.unet(1))
    )
    attack = white_box(data, own, goal=Goal("shape", "heart", 0.5), epsilon=0.2, steps=3)
    attacks = suite(attack, other)
    assert attacks["PGD"] == attack and len({e.key for e in attacks.values()}) == 8
    table = run(attacks, data, [own, other], store=tmp_path, names=["attack"])
    scored = table[(table["compared_with"] == "target") & (table["structure"] == "heart")]
    means = scored.groupby(["attack", "id"])["iou"].mean().unstack("attack")
    for most in (True, False):
        worst = worst_of(scored.assign(network="own"), by=["network"], most=most).set_index("id")
        expected = means.max(axis=1) if most else means.min(axis=1)
        assert worst["iou"].to_dict() == expected.to_dict()
        assert all(means.loc[id, row.attack] == row.iou for id, row in worst.iterrows())


def test_a_random_start_is_another_experiment_and_old_ones_keep_their_keys():
    data, network = toys.dataset(), toys.unet()
    attack = white_box(data, Trained(network, state_digest(network.state_dict()), None, ()))
    assert "random_start" not in attack.values()
    assert suite(attack)["faster PGD, random start"].values()["random_start"] is True


def test_a_case_without_a_value_has_no_worst():
    table = pd.DataFrame(
        {"id": ["a", "b"], "attack": "x", "network": "n", "iou": [1.0, float("nan")]}
    )
    assert list(worst_of(table, by=["network"])["id"]) == ["a"]
