"""The database: connections, tables, migrations, and the thread that commits writes in groups."""
