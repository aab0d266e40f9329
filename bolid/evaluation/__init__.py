"""How pictures are measured: pairs of the test split, the rows of the table, their scores and the report."""
