"""How often something may be done: algorithms, and the stores that count.

Rules of this folder: an algorithm is a pure function of what is stored, the time and the cost; a store keeps it, within a
stated bound, and answers in one step.
"""
