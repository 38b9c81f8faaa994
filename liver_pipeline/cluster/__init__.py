"""A folder run on the machines of a Ray cluster: the same steps for each case, one ledger, any node may go."""
