"""Claims of 08: each is decided by its rule, and what a rule cannot see decides nothing."""

import math

import pandas as pd
import pytest

from helpers import beyond, rules

CLAIMS = {each.name: each for each in beyond.BEYOND if each.notebook == "08"}


def table(columns, *rows):
    return pd.DataFrame(rows, columns=columns.split())


def filters(jpeg=40.0, cost=1.0, oblivious=37.0):
    return table(
        "defence attacker iou clean",
        *(("nothing", way, iou, 91.0) for way, iou in zip(WAYS, (35.0, 99.0, 99.0), strict=True)),
        *(
            ("jpeg 75", way, iou, 91.0 - cost)
            for way, iou in zip(WAYS, (35.0, oblivious, jpeg), strict=True)
        ),
        *(("bits 1", way, iou, 50.0) for way, iou in zip(WAYS, (35.0, 35.0, 35.0), strict=True)),
    )


WAYS = ("none", "oblivious", "adaptive")


def robust(iou=40.0, one=8.0, half=8.0, clean=90.0):
    return table(
        "network epsilon iou low high clean untargeted",
        ("plain", 0.04, 96.0, 95.0, 97.0, 92.0, 0.0),
        ("ε 0.02", 0.04, iou, iou - 1, iou + 1, clean, 57.0),
        ("ε 0.04", 0.04, 36.0, 35.0, 37.0, 74.0, 65.0),
        ("ε 0.04, one step", 0.04, 50.0, 49.0, 51.0, 85.0, one),
        ("ε 0.04, half clean", 0.04, 50.0, 49.0, 51.0, 85.0, half),
    )


def prey(clavicle=10.0, lung=80.0):
    rows = [("plain", name, area, 90.0, 0.0) for name, area in AREAS.items()]
    left = {"lung": lung, "heart": 80.0, "clavicle": clavicle, "rib": 70.0}
    rows += [("ε 0.04", name, area, 90.0, left[name]) for name, area in AREAS.items()]
    return table("network structure area clean iou", *rows)


AREAS = {"lung": 20.0, "heart": 10.0, "clavicle": 1.0, "rib": 0.5}


def detection(**evaded):
    rows = [("oblivious", name, 0.0) for name in evaded]
    rows += [("adaptive", name, share) for name, share in evaded.items()]
    return table("attacker detector evaded", *rows)


@pytest.mark.parametrize(
    ("name", "agrees", "differs"),
    [
        ("a filter before the network takes the noise away", filters(), filters(jpeg=90.0)),
        ("a filter before the network takes the noise away", filters(), filters(cost=3.1)),
        ("a filter before the network takes the noise away", filters(), filters(oblivious=80.0)),
        ("robust training keeps the symbol out", robust(), robust(iou=56.0)),
        ("robust training keeps the symbol out", robust(), robust(clean=87.9)),
        ("training against one step does not protect", robust(), robust(one=10.1)),
        (
            "training on half clean, half attacked images does not protect",
            robust(),
            robust(half=60.0),
        ),
        ("small structures lose most", prey(), prey(lung=5.0)),
        ("detectors stop attacks", detection(residue=5.0, margin=90.0), detection(residue=6.0)),
    ],
)
def test_a_claim_is_decided_by_its_rule(name, agrees, differs):
    assert rules.decide(CLAIMS[name], agrees)["verdict"] == "holds"
    assert rules.decide(CLAIMS[name], differs)["verdict"].startswith("does not hold (likely: ")


def test_a_detector_that_always_raises_an_alarm_decides_nothing():
    claim = CLAIMS["detectors stop attacks"]
    always = detection(always=math.nan)
    assert rules.decide(claim, always)["verdict"].startswith("not decided by this run (every image")
    beside = rules.decide(claim, detection(always=math.nan, margin=90.0))
    assert beside["verdict"].startswith("does not hold") and "margin: 90 %" in beside["ours"]


def test_what_falls_first_is_read_off_networks_that_keep_something():
    claim, nothing = CLAIMS["small structures lose most"], prey().assign(iou=0.0)
    assert rules.decide(claim, nothing)["verdict"].startswith("not decided by this run (no network")
    assert "plain" not in rules.decide(claim, prey())["ours"]
