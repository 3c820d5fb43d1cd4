"""The scores that the NLG experiments report, by the definitions of the official scoring programs."""
