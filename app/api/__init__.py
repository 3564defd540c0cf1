"""HTTP in and out: routes parse, call one function, return."""
