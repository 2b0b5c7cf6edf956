"""`stiffkit.diffusion.sample` in other packages' calling conventions; each imports its own."""
