"""Amazon SQS over the AWS wire: translation to and from queues; the rules of messages are the broker's."""
