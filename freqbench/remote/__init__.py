"""Jobs on a Ray cluster, sent through the Jobs API."""
