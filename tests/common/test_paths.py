"""Where files are: results stay in the run folder."""

import pytest

from helpers.common import paths


@pytest.mark.parametrize("profile", ["", ".", "..", "../elsewhere", "/elsewhere", "a/b"])
def test_results_stay_in_the_run_folder(profile):
    assert paths.run_folder("quick") == paths.RUNS / "quick"
    with pytest.raises(ValueError, match="give the name of a folder"):
        paths.run_folder(profile)


def test_the_root_is_the_folder_of_package_and_notebooks():
    assert (paths.ROOT / "helpers" / "common" / "paths.py").is_file()
    assert (paths.NOTEBOOKS / "01_data.ipynb").is_file()
