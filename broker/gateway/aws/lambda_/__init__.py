"""AWS Lambda as a service of the gateway."""
