"""Shows records: tables and texts (`report`, `views`, `papers`, `render`), figures (`figures`) and a page (`page`)."""
