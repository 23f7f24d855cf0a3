"""Parity: whether a model answers elsewhere (merged, served, quantised) as it does where it was trained.

`words.py` reads which systems are meant, `asking.py` puts the same questions to each, `measures.py` says how far
each is from the first, and `bounds.py` what that amounts to. `report_parity.py` tells it.
"""
