"""Adversarial attacks that bend the segmentation of a chest radiograph.

Plain modules are the science; import what you need from them: ``from helpers.attack import pgd``.

phantom        synthetic radiographs with true masks
data/          datasets from phantoms, from JSRT with SCR, or from any folder
labels         values of a label map that are no class
loss           soft intersection over union and the other losses
outputs        what any network returns, as logits and label maps
network        the U-Net; predictions, devices, precision
adapters       anybody's network made ready for an attack: its fastest faithful copy
weights        weights files: recipes, digests, where they are
own            networks of one's own: what they take and return, how a parameter names them
evaluation     metrics with intervals
noise          controls for an attack; rounding of image files
recorder       what an attack records on its way; its result
checks         what speaks against trusting an attack's result
attack         FGSM, PGD and a faster attack
world          phantoms as the world's radiographs vary
augmentation   random changes to training images
training       the training loop, resumable
patients       networks trained on phantoms alone, before the radiographs of patients
transfer       attacks on a network whose weights are unknown
defence        filters before a network; what can be proven
detection      detectors of attacks, and an attacker who knows them
shapes         shapes from PNG, SVG or polygons
targets        heart symbols, resized structures, noise regions
ratio          the cardiothoracic ratio: read off outlines, as a target, as a loss
tables         tables for reading and for files, beside the paper's
rules          how a rule decides a claim from tables
claims         the paper's claims and the rules that decide them
beyond         what the study claims beyond the paper
plots          the study's figures
curves         the study's figures of numbers
ratio_plots    its figures of the cardiothoracic ratio
defence_plots  its figures of defences

Folders are machines; import from the folder: ``from helpers.sweep import run``.

common/        paths, files, provenance, progress
sweep/         many attacks: experiments, store, engines, results
explorer/      the ε slider
study/         the notebooks in batch, and a run as a page; what each notebook begins with

Imports point one way: common, then science, then sweep, then explorer and study.
"""

__version__ = "0.1.0"
