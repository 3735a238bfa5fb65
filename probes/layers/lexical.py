"""When a label is written on the word itself, so that its raw profile says nothing about depth. Loads no torch."""

from collections.abc import Mapping

LEXICAL_SHARE = 0.95  # of the best layer's bits, at layer 0
LEAST_GAIN_BITS = 0.02  # a profile that never gets this far says nothing about layers


def is_lexical(by_layer: Mapping[int, float]) -> bool:
    """Whether a raw profile is about the word and not about its context: layer 0 has 95 % of what the best layer has.

    >>> is_lexical({0: 0.85, 1: 0.88, 2: 0.87}), is_lexical({0: 0.2, 1: 0.88}), is_lexical({0: 0.001, 1: 0.001})
    (True, False, False)
    """
    most = max(by_layer.values(), default=0.0)
    return 0 in by_layer and most >= LEAST_GAIN_BITS and by_layer[0] >= LEXICAL_SHARE * most
