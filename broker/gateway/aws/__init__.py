"""The AWS wire: one file or folder a service, and what they share."""
