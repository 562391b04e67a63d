module csv-stats

go 1.24
