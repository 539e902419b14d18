"""What Penstock costs, measured beside the bare Redis loop of the same run. `make bench` runs all of it."""
