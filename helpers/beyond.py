"""What the study claims beyond the paper, each with the rule that decides, as in `claims`."""

from functools import partial

from helpers import rules

BEYOND: list = []  # of `rules.Claim`
report = partial(rules.report, claims=BEYOND)
evaluate = partial(rules.evaluate, claims=BEYOND)
claim = partial(rules.claim, claims=BEYOND)


@claim(
    "09",
    "faint white-box noise moves the diagnosis",
    "",
    "every case crosses .5 by the margin at ε ≤ {epsilon}",
    "cases far from .5 need more noise, or more steps",
)
def _moves_the_diagnosis(ratio_least, *, epsilon=0.02):
    least = ratio_least["epsilon"]
    enough = least <= epsilon
    text = f"{enough.sum()} of {len(least)} cases; median ε {least.median():.2g}"
    return enough.all(), f"{text}, highest {least.max():.2g}"


@claim(
    "09",
    "without the weights the diagnosis stays",
    "limited risk when the weights are unknown",
    "at every noise level, black-box noise takes less than {limit} percentage points more cases "
    "across .5 than random noise",
    "a wider heart is a smaller change than a symbol, and both networks see the same edges",
)
def _stays_without_weights(ratio_crossed, *, limit=20):
    share = ratio_crossed.pivot(index="epsilon", columns="attack", values="crossed")
    more = share["black-box"] - share["random-noise"]
    worst = more.idxmax()
    black, random = share.loc[worst, ["black-box", "random-noise"]]
    text = f"at ε = {worst:g}: black-box {black:.0f} % of cases, random {random:.0f} %"
    return more.max() < limit, text


@claim(
    "09",
    "8 bits protect",
    "",
    "at the least ε of each case, less than half as many cross .5 at 8 bits as at 12 bits",
    "noise of half a grey level is not rounded away where the image lies between two",
)
def _eight_bits_protect(ratio_file):
    share = ratio_file.set_index("way")["crossed"]
    few, many = share["8 bits"], share["12 bits"]
    return few < many / 2, f"{few:.0f} % of cases at 8 bits, {many:.0f} % at 12 bits"
