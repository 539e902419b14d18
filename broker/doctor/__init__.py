"""What `penstock doctor` looks at: the server, and everything that stands in it."""
