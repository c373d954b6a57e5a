"""What people read: statistics, tables, pictures."""
