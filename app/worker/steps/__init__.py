"""The steps that run in children: JSON and file paths in, JSON and files out. They know no database and no job."""
