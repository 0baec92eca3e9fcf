"""Makes the papers' tables: recipes, published numbers, and the records behind each cell."""
