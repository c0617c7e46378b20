"""Which cases train, validate and test."""

from itertools import groupby

from helpers.common.files import digest_json
from helpers.data.folders import Source

Split = dict[str, tuple[str, ...]]


def split_cases(source: Source, test_cases: int | None = 20, seed: int = 0) -> Split:
    """Name of each part → ids.

    Folds say which cases may be tested on; without folds, a quarter of the cases is drawn, and
    without masks all are. No patient is on both sides of a boundary. The order of a draw depends
    on the seed and the names only, so that 8 test cases are the first of 20.

    Raises:
        ValueError: there are too few cases.
    """
    patients = source.patients
    if not source.masks:
        ids = _draw(list(patients), patients, len(patients), f"{seed} test")
        return {"test": tuple(ids[:test_cases])}
    candidates = [id for id in patients if source.folds.get(id, 1) == 1]
    share = 1 if source.folds else 1 / 4
    test = _draw(candidates, patients, round(len(candidates) * share), f"{seed} test")
    pool = _without(patients, test)
    free = pool
    count = round(len(pool) * 23 / 123)
    split = {}
    for network in ("target", "surrogate"):
        drawn = _draw(free, patients, count, f"{seed} validation")
        free = _without(free, drawn)
        training = _without(pool, drawn)
        split[f"{network}-training"] = training
        split[f"{network}-validation"] = _without(pool, training)
    if not (test and free):
        raise ValueError(
            f"{source.root} has too few cases to split: {len(patients)} of "
            f"{len(set(patients.values()))} patients; there must be four patients, "
            "of JSRT one odd-numbered and three even-numbered"
        )
    return split | {"test": tuple(test[:test_cases])}


def spare_cases(source: Source, split: Split) -> tuple[str, ...]:
    """Cases of patients who are in no part of a split."""
    used = {source.patients[id] for part in split.values() for id in part}
    return tuple(id for id, patient in source.patients.items() if patient not in used)


def _draw(ids, patients, count, salt):
    """About `count` of the ids, a patient's all or none; one patient's if that is too few."""
    ordered = sorted(ids, key=lambda id: digest_json([salt, patients[id]]))
    groups = [list(group) for _, group in groupby(ordered, patients.get)]
    drawn = []
    for group in groups:
        if len(drawn) + len(group) <= count:
            drawn += group
    return drawn or min(groups, key=len, default=[])


def _without(ids, others):
    """The ids that are not among the others, in their order."""
    others = set(others)
    return tuple(id for id in ids if id not in others)
