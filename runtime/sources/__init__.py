"""Where a worker's calls come from: a function's asynchronous queue, a mapped queue, synchronous callers."""
