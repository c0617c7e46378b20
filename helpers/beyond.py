"""What the study claims beyond the paper, each with the rule that decides, as in `claims`."""

from functools import partial

from helpers import rules
from helpers.rules import first_with, rows_with

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
    "rounding to 8 bits protects",
    "",
    "at the least ε of each case, less than half as many cross .5 at 8 bits as at 12 bits",
    "noise of about one grey level survives in most pixels",
)
def _eight_bits_protect(ratio_file):
    share = ratio_file.set_index("way")["crossed"]
    few, many = share["8 bits"], share["12 bits"]
    if not many:
        return "no case crosses at 12 bits", ""
    return few < many / 2, f"{few:.0f} % of cases at 8 bits, {many:.0f} % at 12 bits"


@claim(
    "08",
    "a filter before the network takes the noise away",
    "JPEG restores what faint noise changed (Dziugaite et al., 2016)",
    "for some filter that costs at most {cost} points without attack, neither noise that knows it "
    "nor noise that does not raises the IoU with the symbol by {limit} or more",
    "noise that is made through the filter passes it",
)
def _filters_hold(filters, *, cost=3, limit=10):
    own = filters.pivot(index="defence", columns="attacker", values="iou")
    clean = filters.groupby("defence")["clean"].first()
    cheap = own[(clean >= clean["nothing"] - cost) & (own.index != "nothing")]
    if cheap.empty:
        return False, f"no filter costs at most {cost} points"
    gains = (cheap[["adaptive", "oblivious"]].max(axis=1) - cheap["none"]).sort_values()
    best = gains.index[0]
    adaptive, oblivious = cheap.loc[best, ["adaptive", "oblivious"]]
    text = f"least with {best}: {adaptive:.1f}, oblivious {oblivious:.1f}"
    return gains.iloc[0] < limit, text


@claim(
    "08",
    "robust training keeps the symbol out",
    "named as a defence, with Madry et al., 2018",
    "trained at ε = {trained}, under the worst of the suite the small symbol stays at {most} or "
    "less at twice that ε, for at most {cost} points without attack",
    "the network is too small, or was trained for too short",
)
def _training_holds(robust, *, trained=0.02, most=55, cost=4):
    rows = rows_with(robust, epsilon=2 * trained).set_index("network")
    own, plain = rows.loc[f"ε {trained:g}"], rows.loc["plain"]
    clean = f"without attack {own.clean:.1f}, plain {plain.clean:.1f}"
    text = f"{own.text}, plain {plain.text}; {clean}; untargeted {own.untargeted:.1f}"
    return own.iou <= most and own.clean >= plain.clean - cost, text


def _fails_like_plain(robust, name, limit):
    own = robust[robust["network"].str.endswith(name)].iloc[0]
    plain = first_with(robust, network="plain")
    several = first_with(robust, network=own.network.removesuffix(f", {name}"))
    text = f"{own.untargeted:.1f}, plain {plain.untargeted:.1f}, all attacked in several steps"
    return own.untargeted <= plain.untargeted + limit, f"{text} {several.untargeted:.1f}"


@claim(
    "08",
    "training against one step does not protect",
    "few steps fail entirely (Croce et al., 2024)",
    "under the worst untargeted attack its IoU is within {limit} of the plain network's",
    "one step finds part of what several do, where the noise is this faint",
)
def _one_step_is_not_enough(robust, *, limit=10):
    return _fails_like_plain(robust, "one step", limit)


@claim(
    "08",
    "training on half clean, half attacked images does not protect",
    "what leaves such networks without robustness (Halmosi and Jelasity, 2023)",
    "under the worst untargeted attack its IoU is within {limit} of the plain network's",
    "one network can fit both halves where the noise is faint",
)
def _half_is_not_enough(robust, *, limit=10):
    return _fails_like_plain(robust, "half clean", limit)


@claim(
    "08",
    "small structures lose most",
    "small objects are the easiest prey (Halmosi et al., 2024)",
    "on every network that keeps an IoU of {least} or more, the structure that loses the largest "
    "share of it to untargeted noise is among the two smallest",
    "what falls first depends on contrast, too",
)
def _small_ones_lose_most(prey, *, least=10):
    kept = prey.groupby("network")["iou"].transform("mean")
    prey = prey[kept >= least]
    if prey.empty:
        return "no network keeps so much", ""
    lost = prey.assign(lost=100 - 100 * prey["iou"] / prey["clean"])
    most = lost.loc[lost.groupby("network", sort=False)["lost"].idxmax()]
    smallest = prey.groupby("structure")["area"].first().nsmallest(2).index
    text = ", ".join(
        f"{row.network}: {row.structure} {row.lost:.0f} %" for row in most.itertuples()
    )
    return most["structure"].isin(smallest).all(), text


@claim(
    "08",
    "detectors stop attacks",
    "up to 100 % found (Maag and Fischer, 2023)",
    "for some detector with 5 % false alarms, of the images that raise none without attack at most "
    "{most} % are attacked to an IoU of 80 and raise none still, whatever the goal",
    "a detector's score is one more term in the attacker's loss",
)
def _detectors_hold(detection, *, most=5):
    passed = detection.groupby(["attacker", "detector"])["evaded"].max()
    known = passed["adaptive"].dropna()  # of one that always raises an alarm, nothing is known
    if known.empty:
        return "every image raises an alarm without attack", ""
    best = known.idxmin()
    text = f"fewest past {best}: {known[best]:.0f} %, oblivious {passed['oblivious'][best]:.0f} %"
    return known[best] <= most, text
