"""Milvus as the engine of candidates: a collection in a file (Milvus Lite), on a server or on a cluster."""
