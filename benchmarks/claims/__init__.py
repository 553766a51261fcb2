"""Claims of the papers, tried out: each trains models, for minutes to hours."""
