"""What every notebook begins with: results folder, dataset, networks, provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor, stack

from helpers import patients, plots
from helpers.common.arguments import require
from helpers.common.paths import run_folder
from helpers.common.provenance import origin_of, provenance
from helpers.data import Dataset, load
from helpers.labels import OUTSIDE
from helpers.network import find_depth, find_device, find_precision, predict
from helpers.own import load_network
from helpers.study.frames import FILE, tabulate_frames, write_frames
from helpers.study.parameters import check_truth
from helpers.sweep import Experiment, load_images, open_engine, run, white_box
from helpers.tables import EXACT, write_table
from helpers.training import train_all
from helpers.weights import Trained


@dataclass(frozen=True, eq=False)
class Study:
    """A dataset, the networks that were trained on it, and how attacks on them are computed.

    Attributes:
        results: folder of the tables and figures.
        data: the dataset.
        networks: the trained networks by role, such as "target" and "surrogate".
        engine: the open engine that computes, see `sweep.open_engine`.
        source: provenance of what the running code computes.
        attack: seed, device, steps and precision of every attack.
        training: settings that its networks were trained with, as of `training.train_all`.
    """

    results: Path
    data: Dataset
    networks: dict
    engine: Any
    source: dict
    attack: dict
    training: dict = field(default_factory=dict)

    @property
    def target(self) -> Trained:
        """The network that is attacked."""
        return self.networks["target"]

    @property
    def surrogate(self) -> Trained | None:
        """The network that a black-box attacker has; None if it takes no part."""
        return self.networks.get("surrogate")

    @property
    def depth(self) -> int:
        """Depth of the target; of a network of one's own, of the U-Net that sees as far."""
        if self.target.recipe:
            return self.target.recipe.depth
        images = self.data.take("test")[0][:4].to(self.engine.device)
        return find_depth(self.target.network, images)

    def train(self, *roles: Any, data: Dataset | None = None, **changes: Any) -> dict:
        """Further networks, trained as the study's own but for the changes.

        Args:
            *roles: as of `training.train_all`: "surrogate", or ("target", seed).
            data: whose split says which cases to train on; the study's unless it is given.
            **changes: of the settings, such as depth.

        Returns:
            The networks by role.
        """
        settings = self.training | changes
        return train_all(data or self.data, roles, engine=self.engine, **settings)

    def predict(self, which: str | Sequence[str] = "test", role: str = "target") -> Tensor:
        """Label maps int64 (N, H, W) that a network sees in cases; background in their padding.

        Args:
            which: name of a part of the split, or ids.
            role: of the network.
        """
        images, truth = self.data.take(which)
        maps = predict(self.networks[role].network, images.to(self.engine.device)).cpu()
        return maps.masked_fill(truth == OUTSIDE, 0)

    def cases(self, *structures: str, which: str = "test", predicted: bool = False) -> list:
        """The cases that have these structures in the truth, and (if asked) in the prediction.

        Args:
            *structures: their names.
            which: name of a part of the split.
            predicted: whether the target network has to see them, too.

        Raises:
            ValueError: there is no such structure, or no such case.
        """
        truth = self.data.take(which)[1]
        maps = {"the truth": truth}
        if predicted:
            maps["the clean prediction"] = self.predict(which)
        classes = map(self.data.class_of, structures)
        masks = [labels == c for c in classes for labels in maps.values()]
        there = stack(masks).any(dim=(2, 3)).all(dim=0)
        ids = list(compress(self.data.split[which], there))
        where = f"{', '.join(structures)} in {' and '.join(maps)}"
        require(
            ids,
            f"{which} images: {where}",
            ids,
            "take more cases, name another structure, or train for longer (epochs)",
        )
        print(f"{len(ids)} of {len(truth)} {which} images: {where}")
        return ids

    def white_box(self, **values: Any) -> Experiment:
        """An attack on the target with its own weights, to be varied; see `sweep.white_box`."""
        return white_box(self.data, self.target, **self.attack | values)

    def run(self, experiments: Mapping, **options: Any) -> DataFrame:
        """Results of experiments, computed or taken from the store; see `sweep.run`."""
        return run(experiments, self.data, self.networks.values(), engine=self.engine, **options)

    def load_images(self, experiments: Mapping) -> tuple:
        """Attacked images and predictions of experiments that ran with noise=True."""
        return load_images(experiments, self.data)

    def write(
        self,
        name: str,
        table: DataFrame,
        results: DataFrame | None = None,
        exact: Sequence[str] = EXACT,
        **facts: Any,
    ) -> None:
        """Write a table as <name>.csv with its provenance.

        Args:
            name: of the file.
            table: what is written.
            results: what `run` returned and the table was made of; its origin is stated then.
            exact: columns that keep all their digits.
            **facts: what else to state, or to state instead.
        """
        origin = {} if results is None else origin_of(results)
        about = self.source | origin | facts
        write_table(self.results / f"{name}.csv", table, about, exact=exact)

    def save(self, figure: Figure, name: str, **facts: Any) -> None:
        """Write a figure as <name>.png with its provenance and further facts in the metadata.

        Among them is whether it holds pictures, which not every dataset allows to pass on.
        """
        facts["pictures"] = any(ax.images for ax in figure.axes)
        plots.save_figure(figure, self.results / f"{name}.png", self.source | facts)

    def save_frames(
        self,
        results: DataFrame,
        adv_images: Mapping,
        predictions: Mapping,
        targets: Mapping,
        *,
        structure: str,
    ) -> None:
        """Write what the page's slider shows: frames.json, and its numbers as frames.csv.

        Args:
            results: what `run` returned, with the columns symbol, attack and epsilon.
            adv_images, predictions: what `load_images` returned for the same experiments.
            targets: label maps (N, H, W) by symbol.
            structure: the one that is to become a symbol.
        """
        ids = results["id"].unique()
        path, structures = self.results / FILE, self.data.structures
        shown = write_frames(path, ids, adv_images, predictions, targets, structures, structure)
        table = tabulate_frames(results[results["id"].isin(shown)], structure)
        self.write("frames", table, results)

    def on_a_patient(self) -> "Study":
        """This study on a real radiograph, with networks that were trained on phantoms alone.

        The truth is what its target sees. Tables and figures go to the same folder.
        """
        networks = {role: patients.find_network(role, self.data.size) for role in self.networks}
        for trained in networks.values():
            trained.network.to(self.engine.device)
        data = patients.example(networks["target"])
        source = provenance(data, networks.values(), **self.attack)
        return replace(self, data=data, networks=networks, source=source)

    def explore(self, **options: Any) -> Any:
        """The explorer as a widget; see `explorer.explore`."""
        from helpers.explorer import explore  # widgets are slow to import, and few ask for them

        settings = self.attack | {"also": [self.on_a_patient()]} | options
        return explore(self.data, self.target, self.surrogate, **settings)


def prepare(
    *roles: str,
    profile: str,
    seed: int,
    precision: str = "auto",
    engine: str = "",
    device: str = "auto",
    steps: int | None = None,
    network: str = "",
    surrogate: str = "",
    **parameters: Any,
) -> Study:
    """Load the dataset, train or find the networks, and print where the numbers come from.

    Args:
        *roles: the networks that take part: "target", "surrogate".
        profile: name of the folder in runs/ for the results.
        seed: of anatomies, split, training and controls.
        precision: "fp32", "bf16" or "auto": training in fp32, attacks in bf16 where it is fast.
        engine: where the work runs, see `sweep.open_engine`.
        device: "auto", "cpu" or "cuda".
        steps: gradient steps of an attack, where there are attacks.
        network, surrogate: networks of one's own, such as "mine.py:build", see `own.load_network`;
            empty for the study's U-Net, which is trained.
        **parameters: dataset, size, root and test_cases for `data.load`; structure, if the dataset
            must have one; truth, "masks" or "network" for what the network of one's own sees
            without attack (masks are not needed then); with roles, also what `training.train_all`
            takes.

    Raises:
        ValueError: a value is wrong; the message names it.
    """
    plots.use_style()
    seen = check_truth(parameters.pop("truth", "masks"), network)
    asked = parameters.keys() & {"size", "root", "test_cases"}
    chosen = {name: parameters.pop(name) for name in asked}
    data = load(parameters.pop("dataset"), seed=seed, masks=not seen, **chosen)
    place = open_engine(engine, device=find_device(device))
    own = {"target": network, "surrogate": surrogate}
    networks = {}
    for role in filter(own.get, roles):
        networks[role] = load_network(own[role], data.structures, data.size, role)
        networks[role].network.to(place.device)
        if seen and role == "target":
            data = patients.outline(data, networks[role])
    if structure := parameters.pop("structure", ""):
        data.class_of(structure)  # or an error before anything is trained
    missing = [role for role in roles if not own[role]]
    parameters |= {"precision": precision, "seed": seed}
    networks |= train_all(data, missing, engine=place, **parameters)
    networks = {role: networks[role] for role in roles}
    attack: dict = {"seed": seed, "device": place.device.type}
    if steps is not None:
        attack |= {"steps": steps, "precision": find_precision(precision, place.device)}
    source = provenance(data, networks.values(), **attack)
    if len(missing) < len(roles):
        names = [Path(own[role] or "U-Net trained here").name for role in roles]
        source["networks"] = "/".join(names)
    print(" · ".join(f"{name} {value}" for name, value in source.items() if value != ""))
    return Study(run_folder(profile), data, networks, place, source, attack, parameters)
