"""What asv measures. `inputs` is shared with the scripts beside this folder."""
