"""The whole study in one command: the notebooks in order, through papermill, into runs/<profile>/."""
