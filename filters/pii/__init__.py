"""Personal data and secrets: found, tagged, masked or dropped."""
