"""Parts of tables of a comparison: cells as text, tables with notes, and the tables of single runs and trials."""
