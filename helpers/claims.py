"""Claims of the paper, and of others on attacks without the weights; each with its rule."""

import math

from helpers.rules import (
    CLAIMS,
    SYMBOLS,
    by_symbol,
    claim,
    decide,
    evaluate,
    first_with,
    report,
    rows_with,
)

__all__ = ["CLAIMS", "decide", "evaluate", "report"]


def _join(texts, separator=", "):
    return separator.join(f"{symbol} {texts[symbol]}" for symbol in SYMBOLS)


@claim(
    "03",
    "untargeted white-box noise collapses the segmentation",
    "0.8 at ε = 0.02",
    "IoU below {limit} at ε = {epsilon}",
    "how little noise is enough depends on the network",
)
def _collapses(table1, *, limit=10, epsilon=0.02):
    row = first_with(table1, attack="white-box", epsilon=epsilon)
    return row.iou < limit, row.text


@claim(
    "03",
    "untargeted black-box noise leaves more than half",
    "74.7 of 90.3 at ε = 0.04",
    "more than half of the clean IoU is left at ε = {epsilon}",
    "target and surrogate have learned nearly the same",
)
def _is_weak(table1, clean, *, epsilon=0.04):
    row = first_with(table1, attack="black-box", epsilon=epsilon)
    start = first_with(clean, network="target", structure="mean")
    return row.iou > start.iou / 2, f"{row.text} of {start.text}"


@claim(
    "04",
    "white-box noise draws the symbol",
    "small 97.8, large 95.2 at ε = 0.04",
    "both symbols reach {wanted} at ε = {epsilon}",
    "100 steps do not get to the end: more of them, or steps that shrink, do; networks "
    "differ in that",
)
def _draws_symbol(table2, *, wanted=95, epsilon=0.04):
    row = by_symbol(table2, "epsilon", compared_with="target", attack="white-box").loc[epsilon]
    return row["iou"].min() >= wanted, _join(row["text"])


@claim(
    "04",
    "the large symbol is harder than the small one",
    "0.02 and 0.04 for 95",
    "the small one reaches {wanted} at a lower noise level of the table; if at the same, is "
    "ahead at the one before, intervals apart",
    "which part of the symbol resists depends on the network",
)
def _large_is_harder(table2, *, wanted=95):
    rows = by_symbol(table2, "epsilon", compared_with="target", attack="white-box")
    reached = rows["iou"][SYMBOLS] >= wanted
    levels = reached.idxmax().where(reached.any(), math.inf)
    small, large = levels
    if small == large == math.inf:
        return f"neither symbol reaches {wanted}", ""
    if small != large:
        return small < large, _join(levels.map("at {:g}".format).replace("at inf", "never"))
    before = rows[rows.index < small].iloc[-1]
    text = f"both at {small:g}; at {before.name:g} {_join(before['text'])}"
    if not before["low"].max() > before["high"].min():
        return "the intervals overlap", text
    return before["iou"]["small"] > before["iou"]["large"], text


@claim(
    "04",
    "black-box noise does not draw it",
    "completely unsuccessful",
    "IoU with the symbol rises by less than {limit} over no attack at every noise level",
    "target and surrogate have learned nearly the same",
)
def _black_box_fails(table2, *, limit=10):
    start = by_symbol(table2, "epsilon", compared_with="target", attack="no attack")["iou"]
    rows = by_symbol(table2, "epsilon", compared_with="target", attack="black-box")
    gains = (rows["iou"] - start.loc[0.0])[SYMBOLS].unstack()
    symbol, epsilon = gains.idxmax()
    text = f"{symbol} at ε = {epsilon:g}: {rows['text'][symbol][epsilon]}"
    return gains.max() < limit, f"{text}, no attack {start[symbol][0.0]:.1f}"


@claim(
    "04",
    "one step (FGSM) does not draw it",
    "did not succeed",
    "it gains less than half of what PGD gains over no attack, for both symbols",
    "the loss is nearly linear within ε",
)
def _one_step_fails(heart_attack_ways, *, least=10):
    rows = by_symbol(heart_attack_ways, "way")
    gains = rows["iou"] - rows["iou"].loc["no attack"]
    if gains.loc["PGD"].min() < least:
        return "PGD fails too", ""
    pgd = rows["iou"].loc["PGD"].map(", PGD {:.1f}".format)
    holds = gains.loc["FGSM"] < gains.loc["PGD"] / 2
    return holds.all(), _join(rows["text"].loc["FGSM"] + pgd, "; ")


@claim(
    "04",
    "targets from predictions do as well",
    "did not substantially differ",
    "IoU within {limit} of that with targets from the truth",
    "in one of few cases the prediction is far from the truth",
)
def _basis_does_not_matter(heart_attack_ways, *, limit=3):
    rows, basis = by_symbol(heart_attack_ways, "way"), "targets from predictions"
    more = rows["iou"].loc[basis] - rows["iou"].loc["PGD"]
    text = _join(rows["text"].loc[basis] + more.map(", {:+.1f}".format), "; ")
    return more.abs().max() <= limit, text


@claim(
    "05",
    "resizing leaves the other structures alone",
    "98.9 or higher",
    "IoU of the others with their target at least {limit} everywhere",
    "pixels that a shrunken organ leaves go to its neighbours, and one that grows takes "
    "some of theirs",
)
def _others_stay(table4, *, limit=98.9):
    resized = rows_with(table4[table4["factor"] != 1], "others")
    worst = resized.loc[resized["others"].idxmin()]
    text = f"at least {worst.others:.1f} ({worst['structure']} × {worst['factor']})"
    return round(worst.others, 1) >= limit, text


@claim(
    "05",
    "extreme enlargement of a lung fails most",
    "left lung × 1.8: 78.3",
    "the lowest IoU of the table is a lung's at factor {factor}",
    "where a lung is to shrink the other structures outweigh it in the loss; attacked alone or "
    "with the cross-entropy it gets further (lung_shrinking.csv, at 256×256)",
)
def _lungs_fail_most(table4, *, factor=1.8):
    resized = table4[table4["factor"] != 1]
    is_lung = resized["structure"].str.contains("lung").astype(bool)
    rows_with(resized[is_lung], factor=factor)  # not decided without a lung, nor without others
    rows_with(resized[~is_lung])
    worst = resized.loc[resized["iou"].idxmin()]
    holds = "lung" in worst.structure and worst.factor == factor
    return holds, f"{worst.structure} × {worst.factor}: {worst.text}"


@claim(
    "05",
    "shrinking a clavicle disturbs its lung",
    "in most test images",
    "in more than half of the cases at {factor}, the share of freed pixels that turn into lung is "
    "over 5 points above that without attack",
    "the network has not learned that clavicle and lung are adjacent",
)
def _clavicle_disturbs_lung(clavicle_shrinking, *, factor=0.4):
    share = rows_with(clavicle_shrinking, "disturbed", factor=factor)["disturbed"].mean()
    return share > 50, f"{share:.0f} % of cases"


@claim(
    "06",
    "attacking the heart alone harms the others",
    "shown in its Figure 2",
    "IoU of the others more than {limit} below that of the attack on all",
    "the network needs little of the surroundings to find the others",
)
def _heart_only_harms(noise_restriction, *, limit=2):
    together = first_with(noise_restriction, "others", setting="all").others
    alone = first_with(noise_restriction, "others", setting="structure only").others
    return alone < together - limit, f"{alone:.1f}, all attacked {together:.1f}"


def _loss(restriction, setting):
    """How much the IoU falls when noise is restricted, and both as text."""
    free = first_with(restriction, setting="structure only")
    bound = first_with(restriction, setting=setting)
    return free.iou - bound.iou, f"{bound.text}, unrestricted {free.text}"


@claim(
    "06",
    "noise within the receptive field is enough",
    "segmentation unchanged",
    "IoU at most {limit} below that of unrestricted noise",
    "where the heart is predicted far from the true one, noise nearby does not get there",
)
def _field_is_enough(noise_restriction, noise_energy, *, limit=2):
    loss, text = _loss(noise_restriction, "receptive field")
    if rows_with(noise_energy, "beyond", setting="(pixels)")["beyond"].max() == 0:
        return "the receptive field is all of the image", text
    return loss <= limit, text


@claim(
    "06",
    "noise within the bounding box is not",
    "heart-symbol shaping disrupted",
    "IoU more than {limit} below that of unrestricted noise",
    "the symbol lies well inside the box, and so does most of what its pixels see",
)
def _box_is_not(noise_restriction, *, limit=5):
    loss, text = _loss(noise_restriction, "bounding box")
    return loss > limit, text


@claim(
    "07",
    "no noise made on other networks draws it",
    "completely unsuccessful; contingent on the attacks being white-box",
    "whatever the step of the ladder and the symbol, the IoU with it rises by {limit} or more over "
    "no attack on fewer than half of the networks",
    "networks that learned the same task share some of what noise can use",
)
def _no_transfer(transfer, *, limit=10):
    unknown = transfer[~transfer["step"].isin(["no attack", "white-box"])]
    each = rows_with(unknown[unknown["target"] != "all"], "gain")
    reached = each.assign(reached=each["gain"] >= limit).groupby(["symbol", "step"])["reached"]
    together = rows_with(unknown, "gain", target="all")
    best = together.loc[together["gain"].idxmax()]
    text = f"most: {best.symbol}, {best.step}: {best.text}, {best.gain:+.1f}"
    return bool((reached.mean() < 0.5).all()), text


def _compare(tables, column, *names):
    """Whether the first name's row of each table has the greater IoU, intervals apart; the text."""
    pairs = [[first_with(table, **{column: name}) for name in names] for table in tables]
    text = "; ".join(f"{one.text} against {other.text}" for one, other in pairs)
    if all(one.low > other.high for one, other in pairs):
        return True, text
    if all(one.high < other.low for one, other in pairs):
        return False, text
    return "the intervals overlap", text


@claim(
    "07",
    "augmentation in the attack helps",
    "could potentially increase the success",
    "image and target moved: IoU above that of the same steps without a move, intervals apart",
    "the networks differ in more than where they look",
)
def _augmentation_helps(transfer):
    groups = rows_with(transfer, target="all").groupby("symbol", sort=False)
    return _compare([own for _, own in groups], "step", "image and target moved", "few large steps")


@claim(
    "07",
    "a target that moves with the image brings the symbol further",
    "(ours; libraries for classifiers move the image alone)",
    "IoU at least {least} above that of the image moved alone, with every symbol",
    "a target that stays breaks the other structures instead, which this rule does not see",
)
def _target_moves(transfer, *, least=3):
    rows = rows_with(transfer, target="all")
    wide = rows.pivot(index="step", columns="symbol", values="iou")
    more = wide.loc["image and target moved"] - wide.loc["image moved alone"]
    text = ", ".join(f"{symbol} {value:+.1f}" for symbol, value in more.items())
    return bool((more >= least).all()), text


@claim(
    "07",
    "a slightly robust surrogate is the better one",
    "(Springer et al., arXiv:2106.02105)",
    "IoU with a robust surrogate above that with the plain one, intervals apart",
    "it is harder to attack",
)
def _robust_is_better(transfer_surrogates):
    return _compare([transfer_surrogates], "surrogate", "slightly robust", "as in the paper")


@claim(
    "07",
    "less shared data, less transfer",
    "low performance could be due to different training data",
    "IoU with a surrogate of disjoint cases below that of an equal one that shares them, intervals "
    "apart",
    "all cases are drawn from one population",
)
def _data_matter(transfer_surrogates):
    return _compare([transfer_surrogates], "surrogate", "equal training", "disjoint cases")


@claim(
    "07",
    "more noise does not help without the weights",
    "unlikely to improve performance",
    "at the highest noise level the IoU of the best attack is not above that at ε = {epsilon}",
    "the networks share more of what larger noise can use",
)
def _more_noise(transfer_epsilon, *, epsilon=0.04):
    rows = rows_with(transfer_epsilon, attack="on the target")
    usual, most = first_with(rows, epsilon=epsilon), rows.loc[rows["epsilon"].idxmax()]
    if most.epsilon <= epsilon:
        return f"no noise level above {epsilon:g}", ""
    text = f"{usual.text}, at ε = {most.epsilon:g} {most.text}"
    if usual.iou < most.iou and not most.low > usual.high:
        return "the intervals overlap", text
    return most.iou <= usual.iou, text
