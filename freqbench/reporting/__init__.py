"""Tables and texts from records: pure tables (`tables`), their rendering (`render`) and the whole page (`report`)."""
