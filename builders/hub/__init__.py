"""The Hugging Face Hub: its repositories, and any data set in one of them."""
