"""Model Store: records in a database, files in a blob store."""
