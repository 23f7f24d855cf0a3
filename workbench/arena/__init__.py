"""Blind votes: two unnamed models answer one question, a person says which is better, and the votes add up."""
