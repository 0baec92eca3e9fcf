"""From records to numbers: frames, tables, statistics over patients, labels."""
