"""Config layers, keys and run folders: what makes a run a MONAI bundle."""
