"""`python -m app` is `enginesmith`."""

from app.client.cli import main

main()
