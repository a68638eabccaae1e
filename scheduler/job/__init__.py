"""One job: what a client submits, its state table, its journal and its blobs."""
