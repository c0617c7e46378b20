"""Adversarial attacks that bend the segmentation of a chest radiograph.

Import what you need from its module, for example ``from helpers.attack import pgd``.
Data flows through the modules in this order, and a module imports only from those above it:
files, phantom, data, network, loss, training, attack, targets, evaluation, verdicts, engine, cells, store, sweep,
plots, pictures, frames, explorer, publish, study.
"""

__version__ = "0.1.0"
