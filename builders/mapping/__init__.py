"""From the columns of a record to a row, as a spec maps them."""
