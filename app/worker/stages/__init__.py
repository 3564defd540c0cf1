"""The stages of a job as the worker sees them: find by key, else start a step in a child, then save under the key."""
