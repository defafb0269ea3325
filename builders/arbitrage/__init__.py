"""Multilingual arbitrage: several teachers answer every prompt, an arbiter scores, a routing rule picks.

After "Multilingual Arbitrage" (arXiv 2408.14960) and the data pipeline of Aya Expanse (arXiv 2412.04261, section 3).
"""
