"""The gateway: Penstock over HTTP, for clients of AWS. It translates and has no rules of its own about messages."""
