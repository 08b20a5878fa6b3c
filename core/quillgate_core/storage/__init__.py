"""Everything that speaks SQL: the engine, the embedded server, migrations and the stores."""
