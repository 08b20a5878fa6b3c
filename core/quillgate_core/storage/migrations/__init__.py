"""The migrations of the database's schema, in order; `schema.migrate` runs them."""
