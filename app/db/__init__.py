"""SQL rows, one transaction with the only commit. The only room that imports sqlalchemy."""
