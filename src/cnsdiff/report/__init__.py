"""Reports: a run, an audit, a benchmark or a study as one HTML file that opens offline."""
