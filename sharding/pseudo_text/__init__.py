"""Texts for bare images of people, as UniPT makes LUPerson-T's: divide, conquer, combine.

    attributes.yaml → what to ask (vocabulary.py) → cosines of CLIP, by `pretrain score-phrases` (scores.py)
                    → what is there (choose.py) → two texts an image (templates.py, compose.py) → records (source.py)

Attributes, wording and templates are the three YAML files beside this one, written to be read and edited.
"""
