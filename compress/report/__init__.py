"""results.json, tables, plots and report.html."""
