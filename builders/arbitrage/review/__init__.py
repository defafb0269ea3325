"""Review: some prompts are looked at again, by a judge or by people."""
