"""Bytes by digest, in a local folder or an S3-compatible store."""
