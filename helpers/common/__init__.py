"""What every part of the study needs and none owns: paths, files, progress, provenance."""
