"""Runnable examples of Penstock; each folder is one application to copy from."""
