"""The job queue on DBOS, heartbeats and the reaper. The only room that imports dbos."""
