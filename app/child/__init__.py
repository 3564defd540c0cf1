"""Throw-away processes: whatever parses bytes from outside, or may crash, hang or grow, runs in one."""
