"""What people do with datasets: convert, check, clean, measure, and the rendered demo."""
