"""What commands left: commits of the whole index, transactions, digests, versions, clean-up and migration."""
