"""The steps of packing, which sharding/pack.py puts together.

claim.py                                                        whose the output is
selection.py, input_sizes.py, shard_plan.py, spool.py           rows of a source → a plan for every shard
images.py, shard.py                                             a shard's plan → tar, offsets, index
tables.py                                                       what was refused, and triplets
"""
