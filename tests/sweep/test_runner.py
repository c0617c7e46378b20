"""Sweeps: the same table wherever it is computed, whatever dies on the way; nothing finished is lost."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import clusters
import numpy as np
import pandas as pd
import pytest
import torch
import toys
from clusters import ENVIRONMENT, PYTHON, alive, until
from toys import NETWORKS, Acting, single_experiments

from helpers.common import paths
from helpers.common.files import digest_json
from helpers.defence import guard
from helpers.evaluation import iou
from helpers.network import predict
from helpers.own import load_network
from helpers.sweep import (
    Goal,
    LostEngine,
    Store,
    SweepError,
    load_images,
    open_engine,
    run,
    runner,
    smallest_epsilon,
    start_engine,
    tasks,
    white_box,
)
from helpers.sweep import compute as compute_module
from helpers.sweep.__main__ import main
from helpers.sweep.report import export, status
from helpers.sweep.store import FORMAT
from helpers.training import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.timeout(120),
]
DATA = toys.dataset()
KEYS = ("attack", "epsilon")


@pytest.fixture(autouse=True)
def engines_closed(monkeypatch):
    yield  # before PATH is as it was: closing cancels jobs
    clusters.close_engines()


def swept(store, data=DATA, **options):
    return run(toys.grid(data), data, NETWORKS, store=store, **options)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    torch.set_num_threads(1)
    return swept(tmp_path_factory.mktemp("here"))


def assert_same(table, expected):
    other = ["seconds", "commit"]  # somebody may commit meanwhile
    pd.testing.assert_frame_equal(
        table.drop(columns=other), expected.drop(columns=other), check_exact=True
    )


def stamps(store):
    return {path.name: path.stat().st_mtime_ns for path in Path(store).glob("??/*.safetensors")}


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_case_structure_and_comparison(expected, tmp_path):
    experiments = toys.grid(DATA)
    count = sum(len(experiment.ids) for experiment in experiments.values())
    assert list(expected.columns) == [
        *KEYS,
        "id",
        "structure",
        "compared_with",
        "iou",
        "linf",
        "loss",
        "warnings",
        "seconds",
        "experiment",
        "commit",
        "torch",
        "device",
        "threads",
    ]
    assert (
        len(expected) == count * 2 * 2
        and (expected["threads"] == 1).all()
        and (expected["seconds"] > 0).all()
    )
    found = swept(tmp_path, noise=True)
    for (attack, epsilon), experiment in experiments.items():
        rows = found[(found["attack"] == attack) & (found["epsilon"] == epsilon)]
        assert set(rows["experiment"]) == {experiment.key} and rows["id"].tolist() == [
            id for id in experiment.ids for _ in range(4)
        ]
        assert (rows["linf"] <= epsilon + 1e-6).all()
    adv_images, predictions = load_images(experiments, DATA, store=tmp_path)
    for name, experiment in experiments.items():
        truth = DATA.take(experiment.ids)[1]
        scores = found[
            (found["experiment"] == experiment.key) & (found["compared_with"] == "truth")
        ]["iou"].to_numpy()
        maps = predictions[name].long()
        assert np.array_equal(
            scores, iou(maps, truth, classes=(1, 2)).numpy().ravel(), equal_nan=True
        )
        assert (predict(NETWORKS["a"], adv_images[name]) == maps).float().mean() > 0.99
    assert_same(found, expected)


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_table_and_the_same_one_each_time(tmp_path, expected):
    with start_engine(device="cuda") as engine:
        there = [swept(tmp_path / name, engine=engine, noise=True) for name in "ab"]
    assert_same(there[0], there[1])
    assert (there[0]["device"] == "cuda").all() and (
        there[0]["experiment"] == expected["experiment"]
    ).all()
    for name in ("iou", "linf", "loss"):
        assert (there[0][name] - expected[name]).abs().mean() < 0.01 * expected[name].abs().mean()


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_any_batch_gives_the_same_table(tmp_path, expected, batch_size):
    assert_same(swept(tmp_path, batch_size=batch_size), expected)


def test_what_is_finished_is_not_computed_again(tmp_path, expected, monkeypatch):
    swept(tmp_path)
    before = stamps(tmp_path)
    monkeypatch.setattr(tasks, "compute_results", None)
    assert_same(swept(tmp_path), expected)
    assert stamps(tmp_path) == before
    part = dict(list(toys.grid(DATA).items())[3:1:-1])
    table = run(part, DATA, NETWORKS, store=tmp_path)
    assert table["experiment"].unique().tolist() == [experiment.key for experiment in part.values()]


def test_equal_experiments_under_two_names_are_computed_once_and_shown_twice(tmp_path):
    experiment = toys.experiment(DATA)
    table = run(
        {"x": experiment, "y": replace(experiment)},
        DATA,
        {"net": Acting()},
        store=tmp_path,
        names=("name",),
    )
    assert len(stamps(tmp_path)) == 1 and table["name"].tolist() == ["x"] * 24 + ["y"] * 24


def test_an_attack_is_run_once_for_all_that_is_made_of_it(tmp_path, monkeypatch):
    sizes, pgd = [], compute_module.attacks.pgd
    monkeypatch.setattr(
        compute_module.attacks,
        "pgd",
        lambda network, images, *rest, **more: (
            sizes.append(len(images)) or pgd(network, images, *rest, **more)
        ),
    )
    experiment = toys.experiment(DATA, attacked="a", crafted_on="a")
    made = [
        experiment,
        replace(experiment, attack="shuffled noise"),
        replace(experiment, bits=8),
        replace(experiment, bits=12),
    ]
    run(dict(enumerate(made)), DATA, NETWORKS, store=tmp_path, names=("way",), batch_size=4)
    assert sizes == [len(experiment.ids)]


def test_noise_that_was_not_kept_is_made_again(tmp_path):
    experiments = {"x": toys.experiment(DATA)}
    options = {"store": tmp_path, "names": ("name",)}
    run(experiments, DATA, {"net": Acting()}, **options)
    with pytest.raises(ValueError, match="noise=True"):
        load_images(experiments, DATA, store=tmp_path)
    run(experiments, DATA, {"net": Acting()}, noise=True, **options)
    assert load_images(experiments, DATA, store=tmp_path)[0]["x"].shape == DATA.images.shape


def test_no_experiments_and_pictures_of_none(tmp_path):
    with pytest.raises(ValueError, match="experiment x is not in"):
        load_images({"x": toys.experiment(DATA)}, DATA, store=tmp_path)
    assert run({}, DATA, NETWORKS, store=tmp_path).empty


# --- wherever it is computed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_of_this_machine_give_the_same_table(tmp_path, expected, workers):
    assert_same(swept(tmp_path, engine=f"workers={workers} threads=1"), expected)


def test_a_scheduler_started_by_hand_gives_the_same_table(tmp_path, expected):
    with clusters.started(tmp_path) as (address, _):  # its workers have no copy of the data
        assert_same(swept(tmp_path / "store", engine=address), expected)


def test_slurm_jobs_give_the_same_table(tmp_path, expected, monkeypatch):
    clusters.slurm(tmp_path, monkeypatch)
    path = tmp_path / "slurm.yaml"
    path.write_text(
        f"cores: 1\nmemory: 4GB\njobs: 2\nlocal_directory: {tmp_path}\nwalltime: '00:10:00'\n"
    )
    assert_same(swept(tmp_path / "store", engine=str(path)), expected)
    clusters.close_engines()
    jobs = (tmp_path / "jobs").read_text().split()
    assert len(jobs) >= 2 and set((tmp_path / "cancelled").read_text().split()) == set(jobs)


def test_a_scheduler_behind_tls_gives_the_same_table(tmp_path, expected, monkeypatch):
    import dask

    key, cert = clusters.certificate(tmp_path)
    options = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    settings = {
        "distributed.comm.tls.ca-file": str(cert),
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.client.cert": str(cert),
        "distributed.comm.tls.client.key": str(key),
    }
    with clusters.started(tmp_path, workers=1, protocol="tls", options=options) as (address, _):
        with pytest.raises(
            LostEngine, match="no Dask scheduler answers"
        ):  # it does not talk to strangers
            swept(tmp_path / "store", engine=address)
        with dask.config.set(settings):
            assert_same(swept(tmp_path / "store", engine=address), expected)


def test_one_open_engine_submits_its_slurm_jobs_once(tmp_path, monkeypatch):
    clusters.slurm(tmp_path, monkeypatch)
    path = tmp_path / "slurm.yaml"
    path.write_text(f"cores: 1\nmemory: 4GB\njobs: 1\nlocal_directory: {tmp_path}\n")
    options = {"store": tmp_path / "store", "engine": open_engine(str(path))}
    one = toys.experiment(DATA, ["c0"])
    aimed = replace(one, goal=Goal("shape", "heart"))
    network = {"net": Acting()}
    run({"x": one}, DATA, network, names=("name",), **options)
    smallest_epsilon({"x": aimed}, DATA, network, rounds=2, reached=0.0, **options)
    options["engine"] = str(path)  # the text means the same engine
    run({"x": replace(one, seed=1)}, DATA, network, names=("name",), **options)
    assert len((tmp_path / "jobs").read_text().split()) == 1


def test_a_log_whose_folder_is_not_there_stops_no_sweep(tmp_path, monkeypatch):
    """Workers on other machines inherit the variable, but not the folder."""
    monkeypatch.setenv("STUDY_LOG", str(tmp_path / "of another machine" / "log"))
    assert_same(
        resumed(tmp_path, tmp_path / "store", engine="workers=2 threads=1"), plain(tmp_path)
    )


# --- faults -----------------------------------------------------------------------------------------------------------

DRIVER = """
import signal, sys, toys
from helpers.sweep import SweepError, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
store, engine, log, pause, *flags = sys.argv[1:]
data = toys.dataset()
try:
    table = run(toys.single_experiments(data), data, {"net": toys.Acting(log, float(pause))}, store=store, engine=engine,
                names=("case",), batch_size=1)
    print(len(table))
except (SweepError, ValueError, OSError) as error:
    sys.exit("; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]))
"""


def driver(store, engine="", log="", pause=0.05, **options):
    words = [PYTHON, "-c", DRIVER, store, engine, log, pause]
    return subprocess.Popen(
        [*map(str, words)],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def plain(tmp_path, name="plain"):
    """The table without any fault."""
    return run(
        single_experiments(DATA), DATA, {"net": Acting()}, store=tmp_path / name, names=("case",)
    )


def log_of(path):
    """(process, case) of each line of a log."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def resumed(tmp_path, store, engine="", **options):
    return run(
        single_experiments(DATA),
        DATA,
        {"net": Acting(**options)},
        store=store,
        names=("case",),
        batch_size=1,
        engine=engine,
    )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_the_number_of_open_files_does_not_grow_with_that_of_experiments(tmp_path):
    counts = []

    class Counting(Acting):
        def forward(self, images):
            counts.append(len(os.listdir("/proc/self/fd")))
            return super().forward(images)

    data = toys.dataset(40)
    options = {"store": tmp_path, "names": ("case",), "batch_size": 40}
    run(single_experiments(data), data, {"net": Counting()}, **options)
    assert max(counts) < len(os.listdir("/proc/self/fd")) + 10


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_killed_or_interrupted_goes_on_where_it_was(tmp_path, how):
    store, log = tmp_path / "store", tmp_path / "log"
    process = driver(store, log=log)
    until(lambda: len(stamps(store)) >= 2)
    os.killpg(process.pid, how)
    _, errors = process.communicate(timeout=30)
    before = stamps(store)
    assert process.returncode and 2 <= len(before) < 6
    if how == signal.SIGINT:
        assert f"of 6 experiments are finished in {store}: run the same again" in errors
    assert_same(resumed(tmp_path, store, log=log), plain(tmp_path))
    assert before.items() <= stamps(store).items()
    mine = {case for pid, case in log_of(log) if pid == os.getpid()}
    assert len(mine) == 6 - len(before)


def test_workers_die_with_their_driver(tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    process = driver(store, "workers=2", log, 0.3)
    until(lambda: stamps(store))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    workers = {pid for pid, _ in log_of(log)}
    until(lambda: not any(alive(pid) for pid in workers), 30)
    assert_same(resumed(tmp_path, store), plain(tmp_path))


def test_a_worker_that_is_killed_mid_experiment_costs_nothing(tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    process = driver(store, "workers=2", log, 0.2)
    victim = until(lambda: log_of(log))[0][0]
    os.kill(victim, signal.SIGKILL)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert len({pid for pid, _ in log_of(log)}) >= 2
    assert_same(resumed(tmp_path, store, raises=range(6)), plain(tmp_path))  # all is there


def test_a_scheduler_that_is_killed_leaves_a_sweep_that_goes_on(tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    with clusters.started(tmp_path, workers=1) as (address, scheduler):
        process = driver(store, address, log, 0.2)
        until(lambda: stamps(store))
        before = stamps(store)
        clusters.end(scheduler, signal.SIGKILL)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 25 and process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert (
        last.startswith("LostEngine: the Dask scheduler has gone") and "run the same again" in last
    )
    assert_same(resumed(tmp_path, store), plain(tmp_path))
    assert before.items() <= stamps(store).items()


def test_an_experiment_that_raises_is_named_and_the_others_finish(tmp_path, capsys):
    experiments, network, store = (
        single_experiments(DATA),
        Acting(raises=(1, 4)),
        tmp_path / "store",
    )
    with pytest.raises(SweepError) as caught:
        run(experiments, DATA, {"net": network}, store=store, names=("case",))
    message = str(caught.value)
    assert message.startswith(f"2 of 6 experiments failed, the others are in {store}")
    assert len(stamps(store)) == 4
    for id in ("c1", "c4"):
        key = experiments[id].key
        assert (
            f"python -m helpers.sweep run {store} {key[:12]}" in message and "is poison" in message
        )
        record = json.loads((store / "failed" / f"{key}.json").read_text())
        assert (
            "Traceback" in record["error"]
            and "in forward" in record["error"]
            and digest_json(record["cell"]) == key
        )
    assert main(["status", str(store)]) == 1
    assert (
        "2 failed" in (output := capsys.readouterr().out)
        and experiments["c1"].key[:12] in output
        and "is poison" in output
    )
    table = run(
        experiments, DATA, {"net": Acting()}, store=store, names=("case",)
    )  # the cause is mended
    assert_same(table, plain(tmp_path))
    assert not list((store / "failed").iterdir()) and main(["status", str(store)]) == 0


def test_an_experiment_that_kills_its_worker_is_named_and_the_others_finish(tmp_path):
    experiments, store = single_experiments(DATA), tmp_path / "store"
    with pytest.raises(SweepError) as caught:
        run(
            experiments,
            DATA,
            {"net": Acting(kills=(2,))},
            store=store,
            names=("case",),
            engine="workers=2 threads=1",
        )
    assert str(caught.value).startswith("1 of 6 experiments failed") and experiments["c2"].key[
        :12
    ] in str(caught.value)
    assert set(stamps(store)) == {
        f"{experiment.key}.safetensors" for id, experiment in experiments.items() if id != "c2"
    }
    assert "KilledWorker" in (store / "failed" / f"{experiments['c2'].key}.json").read_text()
    assert_same(resumed(tmp_path, store), plain(tmp_path))


def harm(path, other, how):
    content = path.read_bytes()
    if how == "flip":
        path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif how == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        shutil.copy(other, path)


@pytest.mark.parametrize("how", ["flip", "truncate", "swap"])
def test_a_damaged_experiment_is_set_aside_and_computed_again(tmp_path, how, capsys):
    store, expected = tmp_path / "plain", plain(tmp_path)
    one, other = sorted(store.glob("??/*.safetensors"))[:2]
    harm(one, other, how)
    shutil.copytree(store, tmp_path / "copy")
    before = stamps(store)
    with pytest.warns(UserWarning, match=f"{one.name} .* moved to damaged"):
        assert_same(plain(tmp_path), expected)
    after = stamps(store)
    assert [name for name in before if before[name] != after[name]] == [one.name]
    assert main(["status", str(store)]) == 0 and "6 experiments" in capsys.readouterr().out
    for code in (1, 0):  # told once, and set aside
        assert main(["status", str(tmp_path / "copy")]) == code
        printed = capsys.readouterr()
        assert (
            (one.name in printed.err) == bool(code)
            and "5 experiments" in printed.out
            and "1 damaged" in printed.out
        )


def test_two_drivers_of_one_grid_both_end_with_the_table(tmp_path):
    store = tmp_path / "store"
    both = [driver(store, pause=0.1) for _ in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors
        assert output.strip().endswith("24")
    assert_same(resumed(tmp_path, store, raises=range(6)), plain(tmp_path))


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_is_wrong_changes_nothing(tmp_path, years):
    store, expected = tmp_path / "plain", plain(tmp_path)
    for path in [*store.rglob("*"), store]:
        os.utime(path, (time.time() + years * 3e7,) * 2)
    before = stamps(store)
    assert_same(resumed(tmp_path, store, raises=range(6)), expected)
    assert stamps(store) == before


def test_a_full_disk_is_told_in_a_line_and_loses_nothing(tmp_path):
    store = tmp_path / "disk"
    store.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", store], capture_output=True
    ).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        data = toys.dataset(40)
        experiments = toys.single_experiments(data)
        options = {"store": store, "names": ("case",), "noise": True, "batch_size": 4}
        with pytest.raises(OSError, match="No space left on device") as caught:
            run(experiments, data, {"net": Acting()}, **options)
        (note,) = caught.value.__notes__
        assert f"of 40 experiments are finished in {store}: run the same again" in note
        before = stamps(store)
        assert 0 < len(before) < 40 and not list(store.rglob(".*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=8m", store], check=True)
        assert len(run(experiments, data, {"net": Acting()}, **options)) == 160
        assert before.items() <= stamps(store).items()
    finally:
        subprocess.run(["umount", store], check=True)


def test_a_store_that_cannot_be_written_is_told_in_a_line(tmp_path):
    """As another user, since root may write everywhere."""
    if os.getuid():
        pytest.skip("not root, so no other user can be played")
    store = tmp_path / "plain"
    plain(tmp_path)
    os.unlink(sorted(store.glob("??/*"))[0])
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o755)

    def nobody(code, *words):
        start = "import os\nos.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        return subprocess.run(
            [PYTHON, "-c", f"import toys, helpers.sweep.__main__\n{start}{code}", *map(str, words)],
            text=True,
            env=ENVIRONMENT,
            capture_output=True,
        )

    found = nobody(DRIVER, store, "", "", 0)
    assert (
        found.returncode == 1
        and "PermissionError: [Errno 13] Permission denied" in found.stderr
        and f"5 of 6 experiments are finished in {store}" in found.stderr
    )
    assert "Traceback" not in found.stderr
    found = nobody(DRIVER, tmp_path / "new", "", "", 0)
    assert found.returncode == 1 and "PermissionError: [Errno 13]" in found.stderr
    found = nobody(
        "import sys, helpers.sweep.__main__ as tool; sys.exit(tool.main(['status', sys.argv[1]]))",
        store,
    )
    assert found.returncode == 0 and "5 experiments" in found.stdout, found.stderr


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, options, text",
    [
        ({"attacked": "nowhere"}, {}, "weights is 'nowhere'; there are no such weights"),
        ({"goal": Goal("shape", "liver")}, {}, "structure 'liver' is unknown"),
        (
            {"source": "x"},
            {},
            "is ('toy', 'x', 16); the dataset at hand is ('toy', 'toy-6-16', 16)",
        ),
        ({}, {"engine": "nonsense"}, "engine 'nonsense' is unknown"),
        ({"ids": ("c0", "c77")}, {}, "unknown cases is ['c77']; toy has c0 to c5"),
        ({}, {"engine": "missing.yaml"}, "missing.yaml: not usable for Slurm"),
        ({}, {"names": ("one", "two")}, "names is ('one', 'two'); give a column for each part"),
        ({}, {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_input_is_one_line(tmp_path, change, options, text):
    experiments = {"x": replace(toys.experiment(DATA), **change)}
    with pytest.raises(ValueError) as caught:
        run(
            experiments,
            DATA,
            {"net": Acting()},
            **{"store": tmp_path / "store", "names": ("name",)} | options,
        )
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert not stamps(tmp_path / "store")


def test_a_store_of_a_newer_format_is_refused(tmp_path, capsys):
    (tmp_path / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(ValueError, match="update this software"):
        swept(tmp_path)
    assert main(["status", str(tmp_path)]) == 2 and "newer" in capsys.readouterr().err


# --- the command line -------------------------------------------------------------------------------------------------


def test_commands_say_in_a_line_what_is_wrong(tmp_path, capsys):
    for words in (
        ["status", str(tmp_path)],
        ["export", str(tmp_path / "x")],
        ["run", str(tmp_path), "ab"],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "this is not a store of results" in error and error.count("\n") == 1
    for words in ([], ["status"], ["fly", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2 and "python -m helpers.sweep" in capsys.readouterr().err
    Store(tmp_path)
    assert main(["run", str(tmp_path), "ab"]) == 2
    assert "key is 'ab'; 0 experiments that failed begin so" in capsys.readouterr().err
    assert main(["status", str(tmp_path)]) == 0 and "0 experiments" in capsys.readouterr().out
    assert main(["export", str(tmp_path)]) == 0


def test_status_and_export_tell_what_a_store_holds(tmp_path, expected, capsys):
    swept(tmp_path)
    experiments = toys.grid(DATA)
    assert main(["status", str(tmp_path)]) == 0
    cases = sum(len(experiment.ids) for experiment in experiments.values())
    assert f"{len(experiments)} experiments, {cases} attacked cases" in capsys.readouterr().out
    assert main(["export", str(tmp_path)]) == 0
    table = pd.read_csv(
        StringIO(capsys.readouterr().out), keep_default_na=False, na_values={"iou": [""]}
    )
    assert len(table) == len(expected) and not export(tmp_path).duplicated().any()
    keys = ["experiment", "id", "structure", "compared_with"]
    both = table.assign(structure=table["structure"].map({1: "heart", 2: "lung"})).merge(
        expected, on=keys
    )
    assert len(both) == len(expected)
    assert np.allclose(both["iou_x"], both["iou_y"], rtol=1e-5, equal_nan=True)
    assert {
        "goal_kind",
        "goal_ratio",
        "region_kind",
        "attack",
        "steps",
        "precision",
        "version",
    } <= set(table.columns)


def test_a_failed_experiment_is_run_alone(tmp_path, monkeypatch, capsys):
    data = toys.on_disk(tmp_path / "data")
    experiment = toys.experiment(data, data.split["test"][:1])
    store, healthy = tmp_path / "store", Acting()

    class Broken(Acting):
        def forward(self, images):
            raise RuntimeError("broken")

    with pytest.raises(SweepError):
        run({"x": experiment}, data, {"net": Broken()}, store=store, names=("name",))
    monkeypatch.setattr(runner, "_networks", lambda *_: {"net": Broken()})
    with pytest.raises(RuntimeError, match="broken"):
        main(["run", str(store), experiment.key[:12]])
    monkeypatch.setattr(runner, "_networks", lambda *_: {"net": healthy})
    assert (
        main(["run", str(store), experiment.key[:12]]) == 0
        and "done: IoU" in capsys.readouterr().out
    )
    assert (
        Store(store).read(experiment, noise=True) is not None and main(["status", str(store)]) == 0
    )
    monkeypatch.undo()
    with pytest.raises(SweepError):
        run(
            {"x": replace(experiment, seed=1)},
            data,
            {"net": Broken()},
            store=store,
            names=("name",),
        )
    key = replace(experiment, seed=1).key
    assert (
        main(["run", str(store), key]) == 2
        and "there are no such weights" in capsys.readouterr().err
    )
    with pytest.raises(SweepError):
        run(
            {"x": toys.experiment(DATA)},
            DATA,
            {"net": Acting(raises=(0,))},
            store=store,
            names=("name",),
        )
    assert main(["run", str(store), toys.experiment(DATA).key]) == 2
    assert "put together by hand" in capsys.readouterr().err


def test_a_failed_experiment_is_not_run_on_other_images(tmp_path, capsys):
    data = toys.on_disk(tmp_path / "data")
    experiment, store = toys.experiment(data, data.split["test"][:1]), tmp_path / "store"
    with pytest.raises(SweepError):
        run(
            {"x": experiment},
            data,
            {"net": Acting(raises=range(100))},
            store=store,
            names=("name",),
        )
    shutil.copy(tmp_path / "data/images/c0.png", tmp_path / "data/images/c1.png")
    assert main(["run", str(store), experiment.key]) == 2
    assert (
        f"('folder-data', '{experiment.source}', 32); the dataset at hand"
        in capsys.readouterr().err
        and not stamps(store)
    )


def test_the_command_that_is_told_for_a_failed_experiment_can_be_given(tmp_path):
    data, store = toys.on_disk(tmp_path / "data"), tmp_path / "my store"
    experiment = toys.experiment(data, data.split["test"][:1])
    with pytest.raises(SweepError) as caught:
        run(
            {"x": experiment},
            data,
            {"net": Acting(raises=range(100))},
            store=store,
            names=("name",),
        )
    told = str(caught.value).partition("alone: ")[2]
    assert told in status(store)[0]
    found = subprocess.run(["sh", "-c", told], env=ENVIRONMENT, capture_output=True, text=True)
    assert (found.returncode, found.stderr.count("\n")) == (
        2,
        1,
    ) and "there are no such weights" in found.stderr


def test_a_record_of_a_failure_that_is_out_of_date_is_told_until_the_result_is_used(tmp_path):
    swept(tmp_path)
    failed = tmp_path / "failed"
    failed.mkdir(exist_ok=True)
    key = Store(tmp_path).keys()[0]
    (failed / f"{key}.json").write_text(
        '{"error": "of a driver that was slower", "cell": {}, "origin": null}'
    )
    text, healthy = status(tmp_path)
    assert "of a driver that was slower" in text and not healthy
    swept(tmp_path)
    assert status(tmp_path)[1]
    with pytest.raises(ValueError, match="0 experiments that failed begin so"):
        runner.rerun_failed(tmp_path, key)


def test_no_space_for_the_record_of_a_failure_is_told_in_a_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "write_failure", refuse)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(
            {"x": toys.experiment(DATA)},
            DATA,
            {"net": Acting(raises=(0,))},
            store=tmp_path,
            names=("name",),
        )
    assert "0 of 1 experiments are finished" in caught.value.__notes__[0]


def test_a_network_that_was_changed_after_its_training_is_refused(tmp_path):
    settings = {"depth": 1, "features": 2, "epochs": 1}
    trained = train(toys.on_disk(tmp_path / "data"), "target", folder=tmp_path, **settings)
    experiment = toys.experiment(DATA, attacked=trained.digest, crafted_on=trained.digest)
    assert len(run({"x": experiment}, DATA, [trained], store=tmp_path / "store", names=("name",)))
    with torch.no_grad():
        trained.network.head.bias += 1
    with pytest.raises(
        ValueError, match=f"network is '{trained.digest[:12]}'; it was changed after its training"
    ):
        run({"x": experiment}, DATA, [trained], store=tmp_path / "store", names=("name",))


# --- the smallest noise level -----------------------------------------------------------------------------------------


def test_the_smallest_epsilon_is_that_of_a_search_through_all_levels(tmp_path):
    goal, network = Goal("shape", "heart"), {"a": NETWORKS["a"]}
    experiment = toys.experiment(DATA, attacked="a", crafted_on="a", goal=goal, steps=10)
    options = {
        "reached": 10.0,
        "low": 0.01,
        "high": 0.64,
        "rounds": 3,
    }  # an untrained network goes no further
    found = smallest_epsilon({"x": experiment}, DATA, network, store=tmp_path, **options)["x"]
    levels = [round(0.01 * 64 ** (k / 8), 9) for k in range(1, 9)]
    kept = [Store(tmp_path).read_key(key)[0] for key in Store(tmp_path).keys()]
    assert {one.stop_at for one in kept} == {
        11.0
    }  # rounding in the attack must not end it short of what is judged
    auto = replace(experiment, attack="fast pgd", steps="auto", stop_at=11.0)
    assert {(one.attack, one.steps) for one in kept} == {("fast pgd", "auto")}
    tried = {(str(e),): replace(auto, epsilon=e) for e in levels}
    table = run(tried, DATA, network, store=tmp_path / "all", names=("level",))
    rows = table[(table["structure"] == "heart") & (table["compared_with"] == "target")]
    enough = (
        rows.pivot(index="id", columns="level", values="iou").loc[
            list(DATA.ids), [str(e) for e in levels]
        ]
        >= 10
    )
    assert enough.any(axis=None)
    for own, result in zip(enough.to_numpy(), found, strict=True):
        monotone = (np.diff(own.astype(int)) >= 0).all()
        if not own[-1]:
            assert result == np.inf
        elif monotone:
            assert result == pytest.approx(levels[own.argmax()], rel=1e-6)
        else:
            assert own[np.isclose(levels, result)].all()
    assert Counter(np.isfinite(found))[True] >= 1


def test_a_case_that_fails_at_the_highest_level_is_searched_below_it_too(tmp_path):
    """Attacks are no exact search: one can do better with less noise."""
    goal, network = Goal("shape", "heart"), {"a": NETWORKS["a"]}
    one = toys.experiment(DATA, attacked="a", crafted_on="a", goal=goal, steps=10)
    options = {"reached": 30.0, "low": 0.01, "high": 0.64, "rounds": 2}
    found = smallest_epsilon({"x": one}, DATA, network, store=tmp_path, **options)["x"]
    tried = {id: set() for id in DATA.ids}
    for key in Store(tmp_path).keys():
        experiment = Store(tmp_path).read_key(key)[0]
        tried[experiment.ids[0]].add(experiment.epsilon)
    assert 0 < np.isinf(found).sum() < len(found)
    assert {len(levels) for levels in tried.values()} == {3}


def test_a_function_may_judge_what_is_enough(tmp_path):
    network = {"a": NETWORKS["a"]}
    goal = Goal("shape", "heart")
    one = toys.experiment(DATA, attacked="a", crafted_on="a", goal=goal, steps=2)
    shapes = set()

    def judge(id, labels):
        shapes.add(tuple(labels.shape))
        return id == DATA.ids[0]

    options = {"low": 0.01, "high": 0.64, "rounds": 2, "store": tmp_path, "noise": True}
    found = smallest_epsilon({"x": one}, DATA, network, reached=judge, **options)["x"]
    assert found[0] == pytest.approx(0.01 * 64**0.25) and np.isinf(found[1:]).all()
    assert shapes == {(DATA.size, DATA.size)}
    kept = [Store(tmp_path).read_key(key)[0] for key in Store(tmp_path).keys()]
    assert {(each.attack, each.steps, each.stop_at) for each in kept} == {("pgd", 2, None)}


def test_the_beginning_of_a_digest_names_no_network():
    cards = sorted(paths.PUBLISHED.glob("*.json"))
    if not cards:
        pytest.skip("data/weights was emptied")
    whole = json.loads(cards[0].read_text())["weights"]
    data = toys.dataset()
    for digest in (whole[:12], whole[:1]):
        with pytest.raises(ValueError, match=f"weights is '{digest}'; there are no such weights"):
            run(
                {"x": toys.experiment(data, attacked=digest, crafted_on=digest)},
                data,
                {},
                names=("name",),
            )


def test_a_failure_to_add_the_noise_of_a_result_is_listed(tmp_path):
    experiment = toys.experiment(DATA)
    options = {"store": tmp_path, "names": ("name",)}
    run({"x": experiment}, DATA, {"net": Acting()}, **options)
    with pytest.raises(SweepError):
        run({"x": experiment}, DATA, {"net": Acting(raises=(0,))}, noise=True, **options)
    assert experiment.key[:12] in status(tmp_path)[0] and not status(tmp_path)[1]


OWN = """
import toys

def build():
    network = toys.unet(seed=7)
    network.structures = ["lung", "heart"]
    return lambda images: network(images)

def module():
    return toys.unet(seed=7)
"""


@pytest.mark.parametrize("function, defence", [("build", ""), ("module", "average 0.1")])
def test_a_network_of_one_s_own_is_made_anew_in_workers(tmp_path, function, defence):
    (tmp_path / "mine.py").write_text(OWN)
    own = load_network(f"{tmp_path / 'mine.py'}:{function}", DATA.structures, DATA.size)
    own = guard(own, defence, copies=2) if defence else own
    experiments = {("pgd", 0.1): white_box(DATA, own, steps=2, epsilon=0.1, precision="fp32")}
    with start_engine("workers=2") as place:
        there = run(experiments, DATA, [own], store=tmp_path / "there", engine=place)
    here = run(experiments, DATA, [own], store=tmp_path / "here")
    pd.testing.assert_frame_equal(there[["id", "iou", "linf"]], here[["id", "iou", "linf"]])


def test_a_network_that_is_another_one_in_a_worker_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    own = load_network(f"{path}:module", DATA.structures, DATA.size)
    path.write_text(OWN.replace("seed=7", "seed=8"))
    experiments = {("pgd", 0.1): white_box(DATA, own, steps=2, epsilon=0.1, precision="fp32")}
    with start_engine("workers=1") as place, pytest.raises(SweepError, match="makes another one"):
        run(experiments, DATA, [own], store=tmp_path / "store", engine=place)
