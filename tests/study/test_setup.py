"""What every notebook begins with: a dataset, networks, an engine, and where numbers come from."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import toys

from helpers.common import paths
from helpers.common.provenance import commit
from helpers.labels import OUTSIDE
from helpers.study import Study, prepare
from helpers.sweep import open_engine
from helpers.weights import Trained


@pytest.fixture
def study(tmp_path):
    data = toys.dataset()
    target = Trained(toys.unet(), "d" * 64, None, ())
    source = {"dataset": data.name, "commit": "now", "torch": "2", "device": "cpu"}
    engine = open_engine()
    attack = {"seed": 0, "precision": "fp32", "steps": 3}
    return Study(tmp_path, data, {"target": target}, engine, source, attack)


def test_a_table_names_the_commit_of_its_results_and_not_that_of_its_printing(study):
    results = pd.DataFrame({"torch": ["1", "1"], "device": ["cuda", "cpu"], "commit": ["a", "a"]})
    study.write("own", pd.DataFrame({"iou": [1.0]}))
    study.write("stored", pd.DataFrame({"iou": [1.0]}), results, seed=7)
    own, stored = (pd.read_csv(study.results / f"{n}.csv", dtype=str) for n in ("own", "stored"))
    assert own.loc[0, "commit"] == "now"
    found = stored.loc[0, ["dataset", "torch", "device", "commit", "seed"]].tolist()
    assert found == ["toy", "1", "cpu/cuda", "a", "7"]


def test_a_figure_carries_its_provenance(study):
    figure = plt.figure()
    study.save(figure, "figure", epsilon=0.04)
    plt.close(figure)
    assert b"0.04" in (study.results / "figure.png").read_bytes()


def test_only_cases_that_have_a_structure_take_part(study):
    study.data.labels[1][study.data.labels[1] == 1] = 0
    assert study.cases("heart") == [id for id in study.data.ids if id != "c1"]
    assert study.cases("lung") == list(study.data.ids)


def test_a_structure_that_no_case_has_is_told_with_what_to_do(study):
    study.data.labels[study.data.labels == 1] = 0
    with pytest.raises(ValueError, match="test images: heart in the truth is ..; take more cases"):
        study.cases("heart")
    with pytest.raises(ValueError, match="spleen"):
        study.cases("spleen")


def test_a_structure_that_the_network_sees_nowhere_is_told_with_what_to_do(study):
    bias = study.target.network.head.bias
    with torch.no_grad():
        bias.copy_(torch.tensor([1e6, 0, 0]))
    told = "test images: heart in the truth and the clean prediction is ..; take more"
    with pytest.raises(ValueError, match=told):
        study.cases("heart", predicted=True)


def test_what_a_network_sees_in_the_padding_is_background(study):
    study.data.labels[:, :, :4] = OUTSIDE
    seen = study.predict()
    assert not seen[:, :, :4].any() and seen[:, :, 4:].any()
    assert torch.equal(study.predict(["c2"]), seen[2:3])


def test_the_depth_of_a_network_of_one_s_own_is_that_of_a_u_net_that_sees_as_far(study):
    assert study.depth == 2, "a U-Net of depth 1 sees more than half of these small images"
    study.target.network.forward = torch.nn.Conv2d(1, 3, 3, padding=1).forward
    assert study.depth == 1


def test_an_attack_on_the_target_has_the_settings_of_the_study(study):
    experiment = study.white_box(epsilon=0.01)
    assert (experiment.steps, experiment.epsilon, experiment.attacked) == (3, 0.01, "d" * 64)
    assert study.white_box(steps=5) == replace(experiment, steps=5, epsilon=0.04)


def test_a_structure_that_the_data_lack_is_told_before_anything_is_trained():
    chosen = {"profile": "quick", "dataset": "phantom", "size": 32, "seed": 0}
    with pytest.raises(ValueError, match="structure 'spleen' is unknown; choose one of heart"):
        prepare("target", structure="spleen", depth=1, **chosen)


def test_a_study_without_networks_states_what_it_is_of(capsys):
    study = prepare(profile="quick", dataset="phantom", root="", size=32, test_cases=2, seed=0)
    assert study.results == paths.run_folder("quick") and study.networks == {}
    assert capsys.readouterr().out.startswith("dataset phantom · size 32 · seed 0")
    assert study.source["commit"] == commit() and study.surrogate is None
