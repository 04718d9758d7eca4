"""Files of sparse autoencoders: finding and reading them (``files``), what they say (``settings``), what it means
(``layouts``). Knows nothing about networks.
"""
